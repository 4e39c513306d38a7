"""A whole platform on this machine: for development, the demo, tests and benchmarks."""
