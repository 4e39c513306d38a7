"""From settings to a process that runs: api, relay, worker, each put together in one file."""
