"""Contenders that take turns, so that what else the machine does meets them alike."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Draw = Callable[[np.random.Generator], Any]
WARM_UP = 3  # compile, settle in memory, and once more


@dataclass(frozen=True)
class Contender:
    """Somebody who runs.

    Attributes:
      name: As the report calls it.
      prepare: Makes of what was drawn what `run` wants, outside of the timed region.
      run: One step; returns when it is done, not when it is under way.
      steps: How many steps one repetition is; more of those that are over soon.
    """

    name: str
    prepare: Callable[[Any], Any]
    run: Callable[[Any], Any]
    steps: int


@dataclass(frozen=True)
class Series:
    """The milliseconds of a step, one number for each repetition."""

    name: str
    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all repetitions."""
        return statistics.median(self.milliseconds)


@dataclass(frozen=True)
class Ratio:
    """Over by under, pair by pair: both of a pair met the same weather."""

    pairs: tuple[float, ...]

    @classmethod
    def of(cls, over: Series, under: Series) -> "Ratio":
        """The ratio of each repetition of one to that of the other beside it."""
        pairs = zip(over.milliseconds, under.milliseconds, strict=True)
        return cls(tuple(a / b for a, b in pairs))

    @property
    def median(self) -> float:
        """Half of the pairs are above."""
        return statistics.median(self.pairs)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the pairs is below the first, a quarter above the second."""
        low, high = np.quantile(self.pairs, [0.25, 0.75])
        return float(low), float(high)


def race(
    contenders: Sequence[Contender],
    draw: Draw,
    repetitions: int,
    tick: Callable[[], Any],
    seed: int = 0,
    warm_up: int = WARM_UP,
) -> list[Series]:
    """Each contender's times, a repetition of each in turn, on the same draws.

    In an order that is drawn anew each time: who comes second finds what the first left
    in the cache, such as gradients that both read.

    Args:
      contenders: In the order in which they first run.
      draw: What a step is made on; drawn anew for each step.
      repetitions: How often each has its turn.
      tick: Called after each turn.
      seed: Of the draws, and of the order.
      warm_up: Steps of each before it is timed.
    """
    rng = np.random.default_rng(seed)
    for contender in contenders:
        _turn(contender, [draw(rng) for _ in range(warm_up)])
    gc.freeze()  # what is there by now stays: frameworks take long to be looked through
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(repetitions):
        drawn = [draw(rng) for _ in range(max(c.steps for c in contenders))]
        for at in rng.permutation(len(contenders)):
            times[at].append(_turn(contenders[at], drawn[: contenders[at].steps]))
            tick()
    gc.unfreeze()
    return [
        Series(c.name, tuple(made)) for c, made in zip(contenders, times, strict=True)
    ]


def _turn(contender: Contender, drawn: Sequence[Any]) -> float:
    """Milliseconds a step."""
    batches = [contender.prepare(one) for one in drawn]
    gc.collect()  # now, rather than in the middle
    begin = time.perf_counter()
    for batch in batches:
        contender.run(batch)
    return (time.perf_counter() - begin) * 1e3 / len(batches)
