"""A step on dense gradients against every peer; tracing and compilation."""

from functools import partial

import jax
import jax.numpy as jnp

from benchmarks import _limit, _same, peers
from benchmarks._problem import BOTH, CONFIGURATIONS, MOMENTUM, SMALL, Problem, Shapes
from benchmarks._suite import Suite, say
from benchmarks._summary import OURS, Found, Row, compare, table
from benchmarks._timing import Contender, race
from benchmarks.peers.optax import NAME as OPTAX
from benchmarks.peers.optax import PARTS, make
from benchmarks.peers.torch import COMPILED, EAGER, MOST_COMPILED
from rmsprop_optax import rmsprop

SHAPES: dict[str, Shapes] = {
    "1 leaf of 8": ((8,),),
    "10 x 1,000": ((1000,),) * 10,
    "1,000 x 1,000": ((1000,),) * 1000,
    "1 leaf of 32 M": ((8192, 4096),),
}
QUICK_SHAPES: dict[str, Shapes] = {"3 small leaves": SMALL}
GOALS = {OPTAX: 1.02, PARTS: 1.02, "Keras": 0.8, EAGER: 0.8, COMPILED: 1.0}
COMPILE_GOAL = 1.0
TURNS, COMPILATIONS = 15, 5
COUNTS, QUICK_COUNTS = (10, 100, 1000), (2, 5)
NOTES = {
    "optax": "Tracing and compilation: momentum, leaves of 100 values.",
    "keras": "Keras runs on JAX.",
    "torch": "PyTorch's optimizer has no decoupled weight decay and no average; its "
    f"compiled step is measured up to {MOST_COMPILED} leaves.",
}


def measure(peer: str, quick: bool) -> Found:
    """All configurations and shapes against one peer."""
    contenders, rows = peers.find(peer), list[Row]()
    chosen = [c for c in CONFIGURATIONS if c != BOTH]
    for c in chosen[1::2] if quick else chosen:
        small = Problem.normal(SMALL)
        if not (checked := contenders(c, small)):
            continue
        _same.check(checked, small.params)
        bytes_ = _limit.bytes_a_parameter(rmsprop(**c.arguments))
        for name, shapes in (QUICK_SHAPES if quick else SHAPES).items():
            say(f"  {c.name}, {name}")
            problem, turns = Problem.normal(shapes), 3 if quick else TURNS
            ours, *others = contenders(c, problem)
            times, limit = _limit.race([ours, *others], problem, bytes_, turns)
            rows += [
                compare(f"{c.name}, {name}", times, OURS, x.name, GOALS[x.name], limit)
                for x in others
            ]
    found: Found = {"rows": rows, "notes": [NOTES[peer]]}
    if peer == "optax":
        counts = QUICK_COUNTS if quick else COUNTS
        programs = {count: _compilation(count, quick) for count in counts}
        rows += [row for both in programs.values() for row in both]
        found["tables"] = [_growth(programs)]
    return found


def _growth(programs: dict[int, list[Row]]) -> Found:
    """Whether a leaf takes longer in a tree of many."""
    few, many = list(programs)[-2:]
    shares = []
    for key in ("ours_ms", "peer_ms"):
        leaf = {n: sum(row[key][1] for row in programs[n]) / n for n in (few, many)}
        shares.append(f"{leaf[many] / leaf[few]:.2f}")
    title = f"Tracing and compiling: time a leaf of {many:,}, over that of {few:,}:"
    return table(title, [OURS, OPTAX], [shares])


def _compilation(count: int, quick: bool) -> list[Row]:
    say(f"  compilation, {count} leaves")
    params = [jax.ShapeDtypeStruct((100,), jnp.float32)] * count
    transformations = {OURS: rmsprop(**MOMENTUM.arguments), OPTAX: make(MOMENTUM)}
    racing = []
    for name, tx in transformations.items():
        lower = partial(
            _limit.lower, tx, (params, jax.eval_shape(tx.init, params)), params
        )
        racing += [
            Contender(f"{name}: tracing", lower, lambda _: jax.clear_caches(), steps=1),
            Contender(f"{name}: compiling", lambda x: x.compile(), lower, steps=1),
        ]
    times = race(racing, 2 if quick else COMPILATIONS, warm_up=1)
    rows = []
    for kind, limit in {"tracing": "Python", "compiling": "XLA"}.items():
        both = {name: times[f"{name}: {kind}"] for name in transformations}
        what = f"{kind}, {count:,} leaves"
        rows.append(compare(what, both, OURS, OPTAX, COMPILE_GOAL, limit))
    return rows


SUITE = Suite(
    "a step on dense gradients, and its compilation",
    measure,
    peers=("optax", "keras", "torch"),
)
