"""The HTTP API: events in, tasks started, runs and operations; one file for each subject."""
