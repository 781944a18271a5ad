"""Clipping, weight decay and an average of the weights, all on at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import _shapes
from benchmarks._problem import Configuration
from benchmarks._report import markdown
from benchmarks._suite import Found, Order, Suite
from benchmarks.suites import _cases, _dense_picture
from benchmarks.suites._cases import Case

ALL: Mapping[str, Any] = {"clip": 1.0, "ema": 0.99, "decay": 1e-2}
CONFIGURATIONS = (
    Configuration("plain + all", **ALL),
    Configuration("momentum + all", momentum=0.9, **ALL),
    Configuration("centered + momentum + all", centered=True, momentum=0.9, **ALL),
)
GOAL = 1.0
REPETITIONS, QUICK_REPETITIONS = 25, 3


def cases(quick: bool) -> Sequence[Case]:
    """All that is raced, one after the other."""
    shapes = _shapes.QUICK if quick else _shapes.FULL
    chosen = CONFIGURATIONS[1:2] if quick else CONFIGURATIONS
    return [Case(c, name, found) for name, found in shapes.items() for c in chosen]


def goal(name: str, case: Case) -> float | None:
    """Of the ratio to the contender of that name; None: for information."""
    del case
    return GOAL if name == "Optax's pieces" else None


def _settings(quick: bool) -> Found:
    return _cases.settings(cases(quick), QUICK_REPETITIONS if quick else REPETITIONS)


def _measure(order: Order) -> Found:
    return _cases.measure(
        cases(order.quick), _settings(order.quick)["repetitions"], order, goal
    )


SUITE = Suite(
    name="combined",
    peers=("optax",),
    settings=_settings,
    measure=_measure,
    markdown=markdown,
    draw=_dense_picture.draw,
)
