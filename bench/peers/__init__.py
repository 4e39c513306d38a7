"""The same workflow with the same guarantee, on other platforms: `python -m bench.peers`."""
