"""The check before timing: all contenders compute the same numbers."""

from collections.abc import Sequence

import numpy as np

from benchmarks._timing import Contender


def check(
    contenders: Sequence[Contender],
    begin: Sequence[np.ndarray],
    seeds: Sequence[int] = range(6),
    tolerance: float = 1e-3,
) -> None:
    """Compares how parameters change, from ``begin``, in a step for each seed.

    Raises:
      AssertionError: If a change differs from that of the first contender by more than
        the tolerance, relative to the norm of the change.
    """
    first, *others = contenders
    expected = _changes(first, begin, seeds)
    for other in others:
        for a, b in zip(expected, _changes(other, begin, seeds), strict=True):
            off = np.linalg.norm(b - a) / np.linalg.norm(a)
            if not off <= tolerance:  # NaN is no match either
                raise AssertionError(f"{other.name} differs from {first.name}: {off:.1e}")


def _changes(
    c: Contender, begin: Sequence[np.ndarray], seeds: Sequence[int]
) -> list[np.ndarray]:
    for seed in seeds:
        c.run(c.prepare(seed))
    values = [np.asarray(value, np.float32) for value in c.values()]
    begins = list(begin) * (len(values) // len(begin))  # averages start there too
    return [value - p for value, p in zip(values, begins, strict=True)]
