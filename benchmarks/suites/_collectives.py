"""What a compiled program communicates, read off its text."""

import math
import re
from collections import Counter
from typing import NamedTuple

KINDS = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
_LINE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_SHAPE = re.compile(r"(\w+?)(\d+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_BODY = re.compile(r"body=%?([\w.-]+)")


class Collectives(NamedTuple):
    """The collectives of one program.

    Attributes:
      counts: How many there are of each kind.
      size: The bytes of the whole arrays that each kind is about.
    """

    counts: dict[str, int]
    size: dict[str, int]


def read(text: str, devices: int) -> Collectives:
    """The collectives of a compiled program that runs on so many devices.

    Raises:
      AssertionError: For one inside of a loop, which would run more often than it is
        counted.
    """
    counts, size = Counter(), Counter()
    loops, where = set(_BODY.findall(text)), ""
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            where = found.group(1)
        if not (found := _LINE.search(line)):
            continue
        if where in loops:
            raise AssertionError(f"A collective in a loop: {line.strip()}")
        shapes, kind = found.groups()
        held = sum(_bytes(*shape) for shape in _SHAPE.findall(shapes))
        counts[kind] += 1
        # What a reduce-scatter leaves on a device is its part of the whole.
        size[kind] += held * (devices if kind == "reduce-scatter" else 1)
    return Collectives(dict(counts), dict(size))


def _bytes(kind: str, bits: str, shape: str) -> int:
    del kind
    return math.prod(int(n) for n in shape.split(",") if n) * int(bits) // 8


def sent(size: dict[str, int], devices: int) -> float:
    """Bytes that each device sends, with the ring algorithms that need the least."""
    passes = {"all-reduce": 2, "reduce-scatter": 1, "all-gather": 1}
    share = (devices - 1) / devices
    return sum(passes[kind] * share * held for kind, held in size.items())
