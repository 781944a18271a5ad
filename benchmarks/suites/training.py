"""The whole training step of `examples/char_gru`, with this library and with Optax."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax
from tqdm import tqdm

from benchmarks._report import Row, markdown
from benchmarks._suite import Found, Order, Suite
from benchmarks._timing import Contender, race
from benchmarks.peers import OURSELVES
from benchmarks.suites import _bars
from examples.char_gru.model import TUNED, Trainer, load_corpus
from rmsprop_optax import rmsprop

OPTAX = "optax.rmsprop"
EPSILON = 1e-7
Sizes = Mapping[str, int]
SIZES = {"the main job": {"hidden": 256, "batch": 32, "length": 64}}
QUICK_SIZES = {"a small main job": {"hidden": 64, "batch": 8, "length": 16}}
# The same with less work for each parameter, so that the optimizer has a larger part.
SIZES["the main job, batches of 4 x 16"] = {"hidden": 256, "batch": 4, "length": 16}
STEPS, REPETITIONS, QUICK_REPETITIONS = 5, 25, 3
CHECKED = 20
GOAL = 1.0


class Run:
    """A trainer and what it has come to."""

    def __init__(self, tx: optax.GradientTransformation, sizes: Sizes) -> None:
        self._trainer = Trainer(tx, load_corpus(), **sizes)
        self._state = self._trainer.init()

    def __call__(self, drawn: Any) -> float:
        """One step, to its end: the loss."""
        del drawn
        self._state, loss = self._trainer.step(self._state)
        return float(loss)


def runs(sizes: Sizes) -> Mapping[str, Run]:
    """Both, with the same arguments."""
    rate, momentum = TUNED["learning_rate"], TUNED["momentum"]
    theirs = optax.rmsprop(rate, decay=0.9, eps=EPSILON, momentum=momentum)
    ours = rmsprop(rate, momentum=momentum, epsilon=EPSILON)
    return {OURSELVES: Run(ours, sizes), OPTAX: Run(theirs, sizes)}


def check(both: Mapping[str, Run]) -> None:
    """Losses that go the same way, and down.

    Raises:
      AssertionError: If they don't.
    """
    losses = [[run(None) for _ in range(CHECKED)] for run in both.values()]
    np.testing.assert_allclose(*losses, rtol=1e-3, err_msg="The losses differ.")
    if not losses[0][-1] < losses[0][0]:
        raise AssertionError(f"Nothing was learnt: {losses[0]}.")


def _settings(quick: bool) -> Found:
    return {
        "sizes": {n: dict(s) for n, s in _sizes(quick).items()},
        "steps": STEPS,
        "repetitions": QUICK_REPETITIONS if quick else REPETITIONS,
    }


def _sizes(quick: bool) -> Mapping[str, Sizes]:
    return QUICK_SIZES if quick else SIZES


def _measure(order: Order) -> Found:
    settings = _settings(order.quick)
    rows = []
    total = 2 * settings["repetitions"] * len(settings["sizes"])
    with tqdm(total=total, desc="training", unit="turn", file=sys.stderr) as bar:
        for name, sizes in _sizes(order.quick).items():
            both = runs(sizes)
            check(both)
            contenders = [
                Contender(who, lambda drawn: drawn, run, STEPS)
                for who, run in both.items()
            ]
            times = race(contenders, _nothing, settings["repetitions"], bar.update)
            rows.append(Row(f"step, {name}", *times, as_fast=False, goal=GOAL))
    return {"rows": [row.json(not order.quick) for row in rows]}


def _nothing(rng: np.random.Generator) -> None:
    del rng


SUITE = Suite(
    name="training",
    peers=("optax",),
    settings=_settings,
    measure=_measure,
    markdown=markdown,
    draw=_bars.draw,
)
