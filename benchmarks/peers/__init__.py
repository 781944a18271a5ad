"""The peers. A module for each has `contenders(configuration, problem)`, ours first."""

import importlib
from collections.abc import Callable

from benchmarks._problem import Configuration, Problem
from benchmarks._timing import Contender

PEERS = ("optax", "keras", "torch")  # also the names of the packages


def find(name: str) -> Callable[[Configuration, Problem], list[Contender]]:
    """The contenders of a comparison with that peer; none: the peer can't do it."""
    return importlib.import_module(f"benchmarks.peers.{name}").contenders
