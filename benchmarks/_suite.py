"""The description of a suite."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from benchmarks._picture import draw_ratios
from benchmarks._summary import Found


class Suite(NamedTuple):
    """A suite of measurements.

    Attributes:
      about: One line.
      measure: Checks and measures; called in a process of its own with the name of the
        peer and whether the run is a quick one.
      peers: Names in `benchmarks.peers.PEERS`.
      environment: Variables of its processes.
      draw: Draws the summary into a file.
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
