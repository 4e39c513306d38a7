"""What people see of a proof: while it runs, in the end, and as a page."""
