"""A dense step in one loop for each parameter, with the switch that XLA needs for it."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType

from benchmarks import _shapes
from benchmarks._floor import NAME as FLOOR
from benchmarks._problem import Configuration, Problem, Update
from benchmarks._report import markdown
from benchmarks._suite import Found, Order, Suite
from benchmarks.peers import OURSELVES
from benchmarks.peers.jitted import our_update, to_device
from benchmarks.suites import _cases, _dense_picture, _dense_summary, dense
from benchmarks.suites._cases import Case
from benchmarks.suites.combined import ALL
from rmsprop_optax import single_pass
from rmsprop_optax.wrappers._single_pass import SWITCH

EVERYTHING = Configuration(
    "centered + momentum + all", centered=True, momentum=0.9, **ALL
)
# Small leaves stay as they are.
LARGE = {n: s for n, s in _shapes.FULL.items() if _shapes.size(s) >= _cases.LARGE}
WITHOUT = "without single_pass"
# Those whose steps are as quick as an ordinary one here, or quicker.
RIVALS = ("optax.rmsprop", "Optax's pieces", "Keras, JAX", "PyTorch, compiled")
GOALS = {FLOOR: 1.15, WITHOUT: 1.0}
REPETITIONS, QUICK_REPETITIONS = 15, 3


def cases(quick: bool) -> Sequence[Case]:
    """All that is raced, one after the other."""
    shapes = _shapes.QUICK if quick else LARGE
    chosen = dense.CONFIGURATIONS[:1] if quick else (*dense.CONFIGURATIONS, EVERYTHING)
    return [Case(c, name, found) for name, found in shapes.items() for c in chosen]


def goal(name: str, case: Case) -> float | None:
    """Of the ratio to the contender of that name; None: for information."""
    return GOALS.get(name, dense.goal(name, case))


def _contenders(peer: ModuleType, c: Configuration, p: Problem) -> Mapping[str, Update]:
    others = {n: update for n, update in peer.variants(c, p).items() if n in RIVALS}
    if not others:
        return {}
    make, grads = peer.our_transformation, to_device(p)
    # What is checked and what is tried quickly is small, and would stay as it is.
    is_large = sum(leaf.size for leaf in p.params) >= _cases.LARGE
    wrap = single_pass if is_large else partial(single_pass, min_size=0)
    ours = our_update(c, p, grads, lambda c: wrap(make(c)))
    return {OURSELVES: ours, WITHOUT: our_update(c, p, grads, make), **others}


def _settings(quick: bool) -> Found:
    return _cases.settings(cases(quick), QUICK_REPETITIONS if quick else REPETITIONS)


def _measure(order: Order) -> Found:
    repetitions = _settings(order.quick)["repetitions"]
    found = _cases.measure(cases(order.quick), repetitions, order, goal, _contenders)
    note = f"Both with and without `single_pass`, XLA runs with `{SWITCH}`."
    return {**found, "notes": [note] if order.peer == "optax" else []}


SUITE = Suite(
    name="single_pass",
    peers=("optax", "keras-jax", "torch"),
    settings=_settings,
    measure=_measure,
    markdown=markdown,
    draw=_dense_picture.draw,
    summary=_dense_summary.summary,
    environment={"XLA_FLAGS": SWITCH},
)
