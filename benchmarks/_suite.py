"""The description of a suite."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from benchmarks._picture import draw_ratios
from benchmarks._summary import Found


class Suite(NamedTuple):
    """A suite. Each peer has a process, with the environment, that calls ``measure``.

    Its arguments are the name of the peer, and whether the run is a quick one.
    """

    about: str
    measure: Callable[[str, bool], Found]
    peers: tuple[str, ...] = ("optax",)
    environment: Mapping[str, str] = MappingProxyType({})
    draw: Callable[[Found, Path], None] = draw_ratios


def say(line: str) -> None:
    """A line of progress."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
