"""Before anything is timed: contenders compute the same."""

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks._problem import SETS, Problem, Update, problem
from benchmarks._shapes import SMALL

STEPS = 6


def check(
    make: Callable[[Problem], Mapping[str, Update]], what: str, steps: int = STEPS
) -> None:
    """Lets all of them take a few steps on a small problem.

    Args:
      make: From a problem to the contenders by name; none: a peer can't do this.
      what: The case, for the message.
      steps: How many.

    Raises:
      AssertionError: If one of them ends elsewhere than the first, or nothing moves.
    """
    small = problem(SMALL)
    contenders = make(small)
    if not contenders:
        return
    (first, ours), *others = contenders.items()
    expected = _moved(ours, small, steps)
    for name, update in others:
        found = _moved(update, small, steps)
        if len(found) != len(expected):
            raise AssertionError(f"{what}: {name} keeps other things than {first}.")
        for here, there in zip(expected, found, strict=True):
            np.testing.assert_allclose(
                there,
                here,
                rtol=1e-3,
                atol=1e-5,
                err_msg=f"{what}: {name} is not the same as {first}.",
            )


def _moved(update: Update, small: Problem, steps: int) -> list[np.ndarray]:
    """The way that each number went: the numbers themselves would hide it."""
    for step in range(steps):
        update(update.prepare(step % SETS))
    values = update.values()
    begin = small.params * (len(values) // len(small.params))
    moved = [value - p for value, p in zip(values, begin, strict=True)]
    if not all(np.all(np.isfinite(way)) and np.any(way) for way in moved):
        raise AssertionError("Something has not moved, or is not finite.")
    return moved
