"""Races of one configuration on one set of shapes: ours, ways of a peer, the floor."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks import _floor, _same
from benchmarks._problem import Configuration, Problem, Update, problem, which
from benchmarks._report import Row
from benchmarks._shapes import Shapes, size
from benchmarks._suite import Found, Order
from benchmarks._timing import Contender, race
from benchmarks.peers import OURSELVES
from benchmarks.peers.jitted import our_update, to_device

LARGE = 4_000_000  # numbers, whose step is long enough to be timed alone
STEPS = 5


class Case(NamedTuple):
    """What a race is about."""

    configuration: Configuration
    name: str
    shapes: Shapes


Goal = Callable[[str, Case], float | None]
Gather = Callable[[ModuleType, Configuration, Problem], Mapping[str, Update]]


def settings(cases: Sequence[Case], repetitions: int) -> Found:
    """What a run of them is."""
    parameters = {case.name: size(case.shapes) for case in cases}
    return {"repetitions": repetitions, "parameters": parameters}


def contenders(peer: ModuleType, c: Configuration, p: Problem) -> Mapping[str, Update]:
    """Ours first, with the arguments that make it compute what the peer does."""
    others: dict[str, Any] = peer.variants(c, p)
    ours = our_update(c, p, to_device(p), peer.our_transformation) if others else None
    return {OURSELVES: ours, **others} if ours else {}


def measure(
    cases: Sequence[Case],
    repetitions: int,
    order: Order,
    goal: Goal,
    gather: Gather = contenders,
) -> Found:
    """Rows of all cases that this peer can do, checked before they are timed.

    Args:
      cases: In their order.
      repetitions: How often each contender has its turn.
      order: Against whom.
      goal: Of each ratio.
      gather: Who takes part, ours first; none: the peer can't do this.
    """
    peer = importlib.import_module(f"benchmarks.peers.{order.peer.replace('-', '_')}")
    for configuration in dict.fromkeys(case.configuration for case in cases):
        _same.check(partial(gather, peer, configuration), configuration.name)
    rows: list[Found] = []
    with tqdm(total=len(cases), desc=order.peer, unit="race", file=sys.stderr) as bar:
        for case in cases:
            bar.set_postfix_str(f"{case.configuration.name}, {case.name}")
            updates = gather(peer, case.configuration, problem(case.shapes))
            rows += _race(updates, peer, case, repetitions, order, goal)
            bar.update()
    return {"rows": rows}


def _race(
    updates: Mapping[str, Update],
    peer: ModuleType,
    case: Case,
    repetitions: int,
    order: Order,
    goal: Goal,
) -> list[Found]:
    if not updates:
        return []
    steps = 1 if size(case.shapes) >= LARGE else STEPS
    racing = [Contender(n, u.prepare, u, steps) for n, u in updates.items()]
    if order.peer == "optax":  # once is enough, beside the peer whose goal is nearest
        moved = _floor.step_bytes(
            peer.our_transformation(case.configuration), case.shapes
        )
        racing.append(_floor.contender(moved, steps))
    ours, *others = race(racing, which, repetitions, lambda: None)
    what = f"{case.configuration.name}, {case.name}"
    return [
        Row(what, ours, series, as_fast=False, goal=goal(series.name, case)).json(
            not order.quick,
            configuration=case.configuration.name,
            shapes=case.name,
            peer=order.peer,
        )
        for series in others
    ]
