"""Benchmarks: `python -m bench throughput|latency`. Each checks the books afterwards."""
