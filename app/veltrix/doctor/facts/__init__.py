"""What rules look at: each module reads one kind of facts, or says why they cannot be read."""
