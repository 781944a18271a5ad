"""Moments in 8 bits and in bfloat16: time, memory, and the quality of training."""

import math
from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rmsprop_optax
from benchmarks import _digits, _limit, _same
from benchmarks._problem import Problem, Shapes
from benchmarks._suite import Suite, say
from benchmarks._summary import OURS, Found, Row, compare, table
from benchmarks._timing import Contender, race
from benchmarks.peers import adam_8bit
from benchmarks.peers.jitted import transformation

WIDE, NARROW = "float32", ("int8", "bfloat16")
LEAF: tuple[int, ...] = (4096, 4096)
SHAPES: dict[str, Shapes] = {
    "1 leaf of 16.8 M": (LEAF,),
    "64 x 262,144": ((512, 512),) * 64,
}
QUICK_SHAPES: dict[str, Shapes] = {"1 leaf of 65,536": ((256, 256),)}
CHECK_SHAPES: Shapes = ((64, 256),)
GOALS = {("plain", "int8"): 1.5, ("momentum", "int8"): 2.0, ("centered", "int8"): 2.0}
TURNS, PEER_GOAL, PEER_RATE = 15, 1.0, 3e-4
LEAVES, TRACINGS, TRACING_GOAL, GROWTH_GOAL = 1000, 5, 3.0, 2.3
SEEDS, STEPS, EVERY, LAST = 5, 600, 30, 5
QUALITY = """\
Held-out loss on scikit-learn's digits in nats, ± one standard error: {} steps with
momentum, mean of the last {} evaluations, {} seeds. Equal: not above float32 by more than
its standard error."""
PEER_QUALITY = """\
8-bit Adam: bytes of state a parameter for one leaf of {}, and the held-out loss on
scikit-learn's digits in nats, ± one standard error: {} steps, mean of the last {}
evaluations, {} seeds. Beside it Adam of the same framework in float32."""


def _rmsprop(
    kind: str, rate: float = 1e-3, **arguments: Any
) -> optax.GradientTransformation:
    storage = None if kind == WIDE else kind
    return rmsprop_optax.rmsprop(rate, moment_storage=storage, **arguments)


def _adam(kind: str) -> optax.GradientTransformation:
    tx = optax.adam(1e-3)
    return tx if kind == WIDE else rmsprop_optax.low_precision(tx, kind)


CASES = {
    "plain": _rmsprop,
    "momentum": partial(_rmsprop, momentum=0.9),
    "centered": partial(_rmsprop, centered=True),
    "optax.adam": _adam,
}


def measure(peer: str, quick: bool) -> Found:
    """Each storage against float32; 8-bit Adam against that of another library."""
    if peer != "optax":
        return _against(peer, quick)
    rows, turns = list[Row](), 3 if quick else TURNS
    cases = {name: CASES[name] for name in list(CASES)[:: 3 if quick else 1]}
    for case, make in cases.items():
        small = Problem.normal(CHECK_SHAPES)
        kinds = [transformation(kind, make(kind), small) for kind in (WIDE, *NARROW)]
        _same.check(kinds, small.params, tolerance=0.1)
        for name, shapes in (QUICK_SHAPES if quick else SHAPES).items():
            say(f"  {case}, {name}")
            problem = Problem.normal(shapes)
            for kind in NARROW:
                bytes_ = _limit.bytes_a_parameter(make(kind))
                racing = [transformation(k, make(k), problem) for k in (kind, WIDE)]
                times, limit = _limit.race(racing, problem, bytes_, turns)
                what, goal = f"{case}, {kind}, {name}", GOALS.get((case, kind))
                rows.append(compare(what, times, kind, WIDE, goal, limit))
    rows += _tracing(quick)
    return {"rows": rows, "tables": [_memory(cases), _quality(quick)]}


def _tracing(quick: bool) -> list[Row]:
    """Tracing and lowering with narrow moments, and in a tree of twice the leaves."""
    say("  tracing")
    racing, count = [], 10 if quick else LEAVES
    for kind, leaves in product((WIDE, *NARROW), (count, 2 * count)):
        tx = _rmsprop(kind, momentum=0.9)
        params = [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * leaves
        held = params, jax.eval_shape(tx.init, params)
        lower = partial(_limit.lower, tx, held, params)
        name = f"{kind}, {leaves:,} leaves"
        racing.append(Contender(name, lower, lambda _: jax.clear_caches(), steps=1))
    times = race(racing, 2 if quick else TRACINGS, warm_up=1)
    few, many = f"{count:,} leaves", f"{2 * count:,} leaves"
    pairs = [(f"{k}, {few}", f"{WIDE}, {few}", TRACING_GOAL) for k in NARROW]
    pairs += [(f"{k}, {many}", f"{k}, {few}", GROWTH_GOAL) for k in (WIDE, *NARROW)]
    return [compare(f"tracing, {a}", times, a, b, goal, "Python") for a, b, goal in pairs]


def _against(library: str, quick: bool) -> Found:
    """Our wrapper around `optax.adam`, in blocks of the library's size."""
    tx, small = _adam_in_blocks(adam_8bit.RATE), Problem.normal(CHECK_SHAPES)

    def pair(problem: Problem) -> list[Contender]:
        ours = transformation("low_precision(optax.adam)", tx, problem)
        return [ours, adam_8bit.contender(library, problem)]

    _same.check(pair(small), small.params, tolerance=0.1)
    rows, bytes_ = list[Row](), _limit.bytes_a_parameter(tx)
    for name, shapes in (QUICK_SHAPES if quick else SHAPES).items():
        say(f"  {library}, {name}")
        problem = Problem.normal(shapes)
        racing = pair(problem)
        times, limit = _limit.race(racing, problem, bytes_, 3 if quick else TURNS)
        first, second = (x.name for x in racing)
        what = f"optax.adam, int8 in blocks of {adam_8bit.BLOCK}, {name}"
        rows.append(compare(what, times, first, second, PEER_GOAL, limit))
    return {"rows": rows, "tables": [_peer_quality(library, tx, quick)]}


def _adam_in_blocks(rate: float) -> optax.GradientTransformation:
    storage = rmsprop_optax.MomentStorage("int8", block_size=adam_8bit.BLOCK)
    return rmsprop_optax.low_precision(optax.adam(rate), storage)


def _peer_quality(library: str, tx: optax.GradientTransformation, quick: bool) -> Found:
    seeds, steps, every = (2, 20, 4) if quick else (SEEDS, STEPS, EVERY)
    leaf = jax.ShapeDtypeStruct(LEAF, jnp.float32)
    wide = 8 * leaf.size
    held = {
        "optax, float32": wide,
        OURS: _limit.tree_bytes(jax.eval_shape(tx.init, leaf)),
        "torch, float32": wide,
        library: adam_8bit.state_bytes(library, LEAF),
    }
    optaxes = {
        "optax, float32": optax.adam(PEER_RATE),
        OURS: _adam_in_blocks(PEER_RATE),
    }
    lines = []
    for name, size in held.items():
        say(f"  digits, {name}")
        curves = []
        for seed in range(seeds):
            given = seed, steps, every
            if name in optaxes:
                curves.append(_digits.train(optaxes[name], *given))
            else:
                kind = name.partition(",")[0]
                curves.append(adam_8bit.train(kind, PEER_RATE, *given))
        losses = np.array([np.mean(curve[-LAST:]) for curve in curves])
        loss = f"{losses.mean():.4f} ± {_error(losses):.4f}"
        lines.append([name, f"{size / leaf.size:.3f}", loss])
    title = PEER_QUALITY.format(LEAF, steps, LAST, seeds)
    return table(title, ["Adam", "bytes", "loss"], lines)


def _memory(cases: Mapping[str, Any]) -> Found:
    """From shapes; nothing is allocated."""
    leaf, lines = jax.ShapeDtypeStruct(LEAF, jnp.float32), []
    for case, make in cases.items():
        for kind in (WIDE, *NARROW):
            held = leaf, jax.eval_shape(make(kind).init, leaf)
            compiled = _limit.compile_step(partial(_limit.step, make(kind)), held, leaf)
            found = _limit.tree_bytes(held[1]), _limit.temporary_bytes(compiled)
            lines.append([case, kind, *(f"{x / leaf.size:.2f}" for x in found)])
    header = ["optimizer", "moments", "state", "temporary memory of the step"]
    return table(f"Bytes a parameter, one leaf of {LEAF}:", header, lines)


def _quality(quick: bool) -> Found:
    """Whether training ends with the same held-out loss."""
    seeds, steps, every = (2, 20, 4) if quick else (SEEDS, STEPS, EVERY)
    lines, wide = [], np.zeros(seeds)
    for kind in (WIDE, *NARROW):
        say(f"  digits, {kind}")
        tx = _rmsprop(kind, 3e-4, momentum=0.9)
        curves = [_digits.train(tx, seed, steps, every) for seed in range(seeds)]
        losses = np.array([np.mean(curve[-LAST:]) for curve in curves])
        wide = losses if kind == WIDE else wide
        cells = [f"{x.mean():.4f} ± {_error(x):.4f}" for x in (losses, losses - wide)]
        is_equal = losses.mean() - wide.mean() <= _error(wide)
        lines.append([kind, *cells, "yes" if is_equal else "**no**"])
    header = ["moments", "loss", "minus float32, same seeds", "equal"]
    return table(QUALITY.format(steps, LAST, seeds), header, lines)


def _error(values: np.ndarray) -> float:
    """The standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


SUITE = Suite(
    "moments in 8 bits and in bfloat16 against float32",
    measure,
    peers=("optax", "torchao", "bitsandbytes"),
)
