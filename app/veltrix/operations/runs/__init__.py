"""Runs: read, searched, cancelled, archived."""
