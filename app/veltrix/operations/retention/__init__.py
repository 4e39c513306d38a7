"""Retention: for how long history is kept, what may leave by that, and what stays and why."""
