"""A dense step of every kind, against every peer and against the memory's own speed."""

from collections.abc import Sequence

from benchmarks import _shapes
from benchmarks._problem import Configuration
from benchmarks._report import markdown
from benchmarks._suite import Found, Order, Suite
from benchmarks.peers.keras_tensorflow import MOST_LEAVES
from benchmarks.peers.torch import MOST_COMPILED
from benchmarks.suites import _cases, _dense_picture, _dense_summary
from benchmarks.suites._cases import Case

CONFIGURATIONS = (
    Configuration("plain"),
    Configuration("momentum", momentum=0.9),
    Configuration("centered", centered=True),
    Configuration("centered + momentum", centered=True, momentum=0.9),
)
EXTRAS = (
    Configuration("clipped", clip=1.0),
    Configuration("weight decay", decay=1e-2),
    Configuration("EMA", ema=0.99),
)
# Where something besides RMSprop is on: large, real, and many.
EXTRA_SHAPES = ("one leaf of 32 M", "ResNet-50", "1,000 x 1,000")
PEERS = ("optax", "keras-jax", "keras-tensorflow", "tensorflow", "torch")
GOALS = {"optax.rmsprop": 1.02, "Optax's pieces": 1.02}
FOREIGN_GOAL, FOREIGN = 0.8, ("Keras", "PyTorch")
NOTES = {
    "optax": [
        "The floor: what a step must move (gradients read once, parameters and state "
        "read and written), moved by an addition in place to one array.",
    ],
    "keras-tensorflow": [
        f"Keras on TensorFlow: up to {MOST_LEAVES} leaves, as its graphs of a thousand "
        "take minutes to make.",
    ],
    "torch": [
        f"PyTorch's compiled step: up to {MOST_COMPILED} leaves, as its compiler takes "
        "about a second for each.",
        "TensorFlow's kernels and PyTorch have no decoupled decay and no average.",
    ],
}
REPETITIONS, NEAR_REPETITIONS, QUICK_REPETITIONS = 7, 15, 3


def cases(quick: bool) -> Sequence[Case]:
    """All that is raced, one after the other."""
    if quick:
        chosen = (CONFIGURATIONS[0], CONFIGURATIONS[-1])
        return [Case(c, n, s) for n, s in _shapes.QUICK.items() for c in chosen]
    plain = [Case(c, n, s) for n, s in _shapes.FULL.items() for c in CONFIGURATIONS]
    more = [Case(c, n, _shapes.FULL[n]) for n in EXTRA_SHAPES for c in EXTRAS]
    return [*plain, *more]


def goal(name: str, case: Case) -> float | None:
    """Of the ratio to the peer of that name; None: for information."""
    del case
    return FOREIGN_GOAL if name.startswith(FOREIGN) else GOALS.get(name)


def _settings(quick: bool) -> Found:
    chosen = cases(quick)
    return {
        **_cases.settings(chosen, QUICK_REPETITIONS if quick else REPETITIONS),
        "repetitions_against_optax": QUICK_REPETITIONS if quick else NEAR_REPETITIONS,
        "leaves": {case.name: len(case.shapes) for case in chosen},
    }


def _measure(order: Order) -> Found:
    settings = _settings(order.quick)
    near = order.peer == "optax"
    repetitions = settings["repetitions_against_optax" if near else "repetitions"]
    chosen = cases(order.quick)
    begin, end = (len(chosen) * i // order.parts for i in (order.part, order.part + 1))
    found = _cases.measure(chosen[begin:end], repetitions, order, goal)
    return {**found, "notes": [] if order.part else NOTES.get(order.peer, [])}


SUITE = Suite(
    name="dense",
    peers=PEERS,
    settings=_settings,
    measure=_measure,
    markdown=markdown,
    draw=_dense_picture.draw,
    parts=5,
    summary=_dense_summary.summary,
)
