"""The suites; each is a module that has `SUITE`."""

import importlib

from benchmarks._suite import Suite

NAMES = (
    "dense",
    "sparse",
    "storage",
    "accumulation",
    "dialects",
    "parallel",
    "compiled",
)


def find(name: str) -> Suite:
    """The suite of that name."""
    return importlib.import_module(f"benchmarks.suites.{name}").SUITE
