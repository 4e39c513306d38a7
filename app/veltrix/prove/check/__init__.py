"""The checker: evidence and record, held against what was promised."""
