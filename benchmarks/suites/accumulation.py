"""Gradient accumulation: a call that only adds, and one that updates."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import optax
from tqdm import tqdm

from benchmarks import _floor, _same, _shapes
from benchmarks._problem import (
    DECAY,
    EPSILON,
    LEARNING_RATE,
    Problem,
    Update,
    problem,
    which,
)
from benchmarks._report import Row, markdown
from benchmarks._shapes import Shapes
from benchmarks._suite import Found, Order, Suite
from benchmarks._timing import Contender, Series, race
from benchmarks.peers import OURSELVES
from benchmarks.peers.jitted import JittedUpdate, of_transformation, to_device
from benchmarks.suites import _bars
from rmsprop_optax import rmsprop

EVERY = 4
MOMENTA = {"plain": 0.0, "momentum": 0.9}
FULL: Mapping[str, Shapes] = {
    "one leaf of 16.8 M": ((4096, 4096),),
    "ResNet-50": _shapes.RESNET_50,
    "1,000 x 1,000": _shapes.FULL["1,000 x 1,000"],
}
MULTISTEPS = "optax.MultiSteps"
GOAL = 0.4
ADDED_BYTES = 12  # a parameter: gradient and sum are read, the sum is written
REPETITIONS, QUICK_REPETITIONS = 15, 3


class Calls:
    """An accumulating step, of which each call can be timed by itself."""

    def __init__(self, update: JittedUpdate) -> None:
        self._update, self._done = update, 0

    def prepare_for(self, place: int) -> Any:
        """What draws gradients, and first goes on to that place among `EVERY` calls."""

        def prepare(drawn: int) -> Any:
            grads = self._update.prepare(drawn)
            while self._done % EVERY != place:
                self(grads)
            return grads

        return prepare

    def __call__(self, grads: Any) -> None:
        """One call, to its end."""
        self._update(grads)
        self._done += 1


def ours(momentum: float) -> optax.GradientTransformation:
    """The factory's own accumulation."""
    return rmsprop(
        LEARNING_RATE,
        rho=DECAY,
        momentum=momentum,
        epsilon=EPSILON,
        gradient_accumulation_steps=EVERY,
    )


def theirs(momentum: float) -> optax.GradientTransformation:
    """The same with Optax alone."""
    inner = optax.rmsprop(
        LEARNING_RATE, decay=DECAY, eps=EPSILON, momentum=momentum or None
    )
    return optax.MultiSteps(inner, EVERY).gradient_transformation()


def _updates(momentum: float, small: Problem) -> Mapping[str, Update]:
    grads = to_device(small)
    return {
        OURSELVES: of_transformation(ours(momentum), small, grads),
        MULTISTEPS: of_transformation(theirs(momentum), small, grads),
    }


def _settings(quick: bool) -> Found:
    shapes = _shapes.QUICK if quick else FULL
    return {
        "every": EVERY,
        "repetitions": QUICK_REPETITIONS if quick else REPETITIONS,
        "parameters": {name: _shapes.size(found) for name, found in shapes.items()},
    }


def _measure(order: Order) -> Found:
    shapes = _shapes.QUICK if order.quick else FULL
    repetitions = _settings(order.quick)["repetitions"]
    for name, momentum in MOMENTA.items():
        _same.check(lambda small, m=momentum: _updates(m, small), name, steps=3 * EVERY)
    rows: list[Row] = []
    total = len(shapes) * len(MOMENTA)
    with tqdm(total=total, desc="accumulation", unit="race", file=sys.stderr) as bar:
        for name, found in shapes.items():
            for kind, momentum in MOMENTA.items():
                rows += _race(f"{kind}, {name}", momentum, found, repetitions)
                bar.update()
    return {"rows": [row.json(not order.quick) for row in rows], "notes": [_note()]}


def _race(what: str, momentum: float, shapes: Shapes, repetitions: int) -> list[Row]:
    real = problem(shapes)
    grads = to_device(real)
    names = (OURSELVES, MULTISTEPS)
    contenders: list[Contender] = []
    for name, tx in zip(names, (ours(momentum), theirs(momentum)), strict=True):
        calls = Calls(of_transformation(tx, real, grads))
        contenders += _turns(name, calls)
    numbers = _shapes.size(shapes)
    contenders.append(_floor.contender(ADDED_BYTES * numbers, steps=EVERY - 1))
    return _rows(what, race(contenders, which, repetitions, lambda: None))


def _turns(name: str, calls: Calls) -> list[Contender]:
    """The calls that add, then the one that updates."""
    return [
        Contender(name, calls.prepare_for(0), calls, steps=EVERY - 1),
        Contender(name, calls.prepare_for(EVERY - 1), calls, steps=1),
    ]


def _rows(what: str, times: Sequence[Series]) -> list[Row]:
    adds, emits, their_adds, their_emits, floor = times
    return [
        Row(f"a call that adds, {what}", adds, their_adds, as_fast=False, goal=GOAL),
        Row(f"a call that adds, {what}", adds, floor, as_fast=False),
        Row(f"a call that updates, {what}", emits, their_emits, as_fast=False),
    ]


def _note() -> str:
    return (
        f"One update every {EVERY} calls. The floor of a call that adds: {ADDED_BYTES} "
        "bytes a parameter, moved by an addition in place."
    )


SUITE = Suite(
    name="accumulation",
    peers=("optax",),
    settings=_settings,
    measure=_measure,
    markdown=markdown,
    draw=_bars.draw,
)
