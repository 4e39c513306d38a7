"""Faults: each a name, what it does to a deployment, and how fast that has to be over."""
