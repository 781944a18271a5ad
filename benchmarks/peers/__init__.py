"""The peers. A module for each has `contenders(configuration, problem)`, ours first."""

import importlib
from collections.abc import Callable

from benchmarks._problem import Configuration, Problem
from benchmarks._timing import Contender

# Also the names of the packages. The last two have an 8-bit Adam: `adam_8bit`.
PEERS = ("optax", "keras", "torch", "torchao", "bitsandbytes")


def find(name: str) -> Callable[[Configuration, Problem], list[Contender]]:
    """The contenders of a comparison with that peer; none: the peer can't do it."""
    return importlib.import_module(f"benchmarks.peers.{name}").contenders
