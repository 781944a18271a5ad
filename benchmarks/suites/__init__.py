"""The suites, by name; each is a module that is imported when it is wanted."""

import importlib

from benchmarks._suite import Suite

NAMES = (
    "dense",
    "combined",
    "accumulation",
    "leaves",
    "training",
    "sparse",
    "storage",
    "quality",
    "parallel",
)


def find(name: str) -> Suite:
    """The suite of that name."""
    return importlib.import_module(f"benchmarks.suites.{name}").SUITE
