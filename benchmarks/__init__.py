"""Measurements, each run by `python -m benchmarks.NAME` in a clone of this repository."""
