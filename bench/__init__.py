"""Benchmarks: `python -m bench NAME`. Each checks the books afterwards."""
