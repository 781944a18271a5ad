"""What a suite is, for the runner."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Found = dict[str, Any]


class Order(NamedTuple):
    """What one process is to measure.

    Attributes:
      peer: Whom this library is measured against, a name of `benchmarks.peers.PEERS`.
      quick: Whether small sizes and few turns do.
      device: "cpu", "gpu" or "tpu".
      part: Which part of the work, from 0.
      parts: In how many parts it is done.
    """

    peer: str
    quick: bool
    device: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Suite:
    """A question, and how it is asked.

    Attributes:
      name: On the command line, and of the files.
      peers: Whom it can measure against; each has a process of its own.
      settings: Sizes and counts, of a quick run or of a full one.
      measure: Checks that all compute the same, and measures; runs in its own process.
        What the processes return is merged: lists are joined, dictionaries too.
      markdown: The table, made of all that was found.
      draw: The picture, made of all that was found, into a file.
      summary: What the README shows; None: the whole table.
      environment: Of its processes.
      parts: How many processes share a full run against one peer: TensorFlow keeps what
        it has once compiled, and all of it does not fit into memory.
    """

    name: str
    peers: tuple[str, ...]
    settings: Callable[[bool], Found]
    measure: Callable[[Order], Found]
    markdown: Callable[[Found], str]
    draw: Callable[[Found, Path], None]
    summary: Callable[[Found], str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    parts: int = 1

    def shown(self, found: Found) -> str:
        """What the README shows."""
        return (self.summary or self.markdown)(found)


def merge(parts: list[Found]) -> Found:
    """One finding of those of several processes."""
    merged: Found = {}
    for part in parts:
        for key, value in part.items():
            if isinstance(value, list):
                merged[key] = [*merged.get(key, []), *value]
            elif isinstance(value, dict):
                merged[key] = {**merged.get(key, {}), **value}
            else:
                merged[key] = value
    return merged
