"""Benchmarks of this library against its peers: `python -m benchmarks` in a clone."""
