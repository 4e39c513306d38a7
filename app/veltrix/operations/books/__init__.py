"""The books: whether all that was accepted is accounted for; and what stands beside them."""
