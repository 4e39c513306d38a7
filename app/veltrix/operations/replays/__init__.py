"""Replays and edits: failed runs that run again, with a plan and a rate."""
