"""Timing: contenders take turns, in an order that is drawn for each round."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WARM_UP = 3
TURN_MS, MOST_STEPS = 20.0, 1000

Times = dict[str, np.ndarray]


@dataclass(frozen=True)
class Contender:
    """One implementation of a step.

    Attributes:
      name: Its name in tables.
      run: Runs one step and waits for its results.
      prepare: Makes the argument of `run` from a seed. It is not timed.
      values: The parameters, then their averages if there are any.
      steps: Steps in a turn; None: as many as take about `TURN_MS`.
    """

    name: str
    run: Callable[[Any], Any]
    prepare: Callable[[int], Any] = int
    values: Callable[[], list[np.ndarray]] = list
    steps: int | None = None


def race(contenders: Sequence[Contender], turns: int, warm_up: int = WARM_UP) -> Times:
    """Milliseconds a step of each contender, one number for each of its turns.

    In each round every contender has one turn on the same seeds. The order of a round is
    random, because the first contender may leave shared gradients in the cache.
    """
    rng, steps = np.random.default_rng(0), {}
    for c in contenders:
        _turn(c, range(warm_up))
        fitting = 0 if c.steps else int(np.clip(TURN_MS / _turn(c, [0]), 1, MOST_STEPS))
        steps[c.name] = c.steps or fitting
    gc.freeze()  # objects of the frameworks take long to scan
    times: dict[str, list[float]] = {c.name: [] for c in contenders}
    for _ in range(turns):
        seeds = rng.integers(1 << 30, size=max(steps.values())).tolist()
        for at in rng.permutation(len(contenders)):
            c = contenders[at]
            times[c.name].append(_turn(c, seeds[: steps[c.name]]))
    gc.unfreeze()
    return {name: np.array(taken) for name, taken in times.items()}


def _turn(c: Contender, seeds: Sequence[int]) -> float:
    """Milliseconds a step."""
    prepared = [c.prepare(seed) for seed in seeds]
    gc.collect()  # now, and not in the timed region
    begin = time.perf_counter()
    for argument in prepared:
        c.run(argument)
    return (time.perf_counter() - begin) * 1e3 / len(prepared)
