"""What a compiled program sends to other devices, from its HLO, by a ring model."""

import math
import re
from collections import Counter
from typing import NamedTuple

from benchmarks._hlo import Op, elements, parse, size

# Passes of the ring algorithm, in each of which a device sends (n - 1)/n of the array.
_PASSES = {"all-reduce": 2, "reduce-scatter": 1, "all-gather": 1}
_PERMUTE = "collective-permute"
NOTE = (
    "Sent, with ring algorithms: 2 (n - 1)/n of what is all-reduced, (n - 1)/n of what "
    "is reduce-scattered or gathered."
)


class Sent(NamedTuple):
    """The collectives of a program, and the bytes that a device sends for them."""

    counts: Counter[str]
    bytes: float

    def __str__(self) -> str:
        return ", ".join(f"{n} {kind}" for kind, n in sorted(self.counts.items()))


def sent(text: str, devices: int) -> Sent:
    """Counts each collective of an HLO text once: none of ours is in a loop."""
    counts, total, chains = Counter[str](), 0.0, set[str]()
    for computation, ops in parse(text).items():
        # XLA for TPU writes a reduce-scatter as an all-reduce in a kernel of this name.
        scatters = computation.startswith("all-reduce-scatter")
        for op in ops:
            kind = op.kind.removesuffix("-start")
            if kind not in (*_PASSES, _PERMUTE) or _is_seen(op, chains):
                continue
            if scatters and kind == "all-reduce":
                kind, whole = "reduce-scatter", size(op.type, on_chip=True)
            else:
                whole = _whole(op, kind, devices)
            counts[kind] += 1
            total += whole * _share(kind, _group(op, devices))
    return Sent(counts, total)


def _is_seen(op: Op, chains: set[str]) -> bool:
    """Whether this is another piece of a collective that kernels send between them."""
    found = re.search(r'chain_id="(\d+)"', op.attributes)
    if found is None:
        return False
    seen = found.group(1) in chains
    chains.add(found.group(1))
    return seen


def _whole(op: Op, kind: str, devices: int) -> float:
    """Bytes of the array that all devices of a group have together."""
    # The type of an asynchronous collective begins with its operands.
    result = elements(op.type)[1] if op.kind.endswith("-start") else op.type
    parts = _group(op, devices) if kind == "reduce-scatter" else 1
    return parts * size(result, on_chip=True)


def _share(kind: str, group: int) -> float:
    return 1.0 if kind == _PERMUTE else _PASSES[kind] * (group - 1) / group


def _group(op: Op, devices: int) -> int:
    """How many devices take part together."""
    axes = re.search(r"replica_groups=(?:mesh)?\[([^\]]*)\] \{([^}]*)\}", op.attributes)
    if axes:
        sizes = dict(re.findall(r"('\w+')=(\d+)", axes.group(1)))
        return math.prod(int(sizes[name]) for name in axes.group(2).split(","))
    counts = re.search(r"replica_groups=\[\d+,(\d+)\]", op.attributes)
    if counts:
        return int(counts.group(1))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", op.attributes)
    return len(listed.group(1).split(",")) if listed else devices
