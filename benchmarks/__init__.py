"""Measurements, all of them by `python -m benchmarks` in a clone of this repository."""
