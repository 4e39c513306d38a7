"""It needs what only production has."""
