"""How transactional steps run: together, or each in a savepoint."""
