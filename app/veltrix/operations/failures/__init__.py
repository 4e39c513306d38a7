"""Failure groups: what failed in the same way, and what people decide about it."""
