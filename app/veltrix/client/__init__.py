"""Calling an api over HTTP: one connection, one rule for trying again, errors as sentences."""
