"""Many small leaves: the time of a step, of its compilation, and how both grow."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import _same
from benchmarks._problem import Configuration, Problem, problem, which
from benchmarks._report import Row, markdown
from benchmarks._suite import Found, Order, Suite
from benchmarks._timing import Contender, Series, race
from benchmarks.peers import OURSELVES
from benchmarks.peers.jitted import (
    JittedUpdate,
    of_transformation,
    optax_step,
    ours,
    to_device,
)
from benchmarks.peers.optax import pieces
from benchmarks.suites import _bars

CONFIGURATION = Configuration("momentum", momentum=0.9)
OPTAX = "optax.rmsprop"
COUNTS, QUICK_COUNTS = (10, 100, 1000), (5, 20)
WIDTH, TINY = 100, 8
GOAL = 1.0
LINEAR = 1.1  # a leaf may cost so much more among the most leaves than among fewer
REPETITIONS, QUICK_REPETITIONS = 25, 3
COMPILATIONS, QUICK_COMPILATIONS = 5, 2
CALLS, QUICK_CALLS = 1000, 50


def _settings(quick: bool) -> Found:
    return {
        "leaves": QUICK_COUNTS if quick else COUNTS,
        "width": WIDTH,
        "repetitions": QUICK_REPETITIONS if quick else REPETITIONS,
        "compilations": QUICK_COMPILATIONS if quick else COMPILATIONS,
        "calls": QUICK_CALLS if quick else CALLS,
    }


def _measure(order: Order) -> Found:
    settings = _settings(order.quick)
    _same.check(_updates, CONFIGURATION.name)
    rows = [_dispatch(settings)]
    compiled: dict[int, list[Series]] = {}
    with tqdm(total=2 * len(settings["leaves"]), unit="race", file=sys.stderr) as bar:
        for count in settings["leaves"]:
            bar.set_description(f"{count:,} leaves")
            rows.append(_steps(count, settings["repetitions"]))
            bar.update()
            compiled[count] = _compilations(count, settings["compilations"])
            bar.update()
    rows += [row for count, times in compiled.items() for row in _rows(count, times)]
    rows += _growth(compiled)
    return {"rows": [row.json(not order.quick) for row in rows], "notes": [_note()]}


def _updates(real: Problem) -> Mapping[str, JittedUpdate]:
    grads = to_device(real)
    return {
        OURSELVES: of_transformation(ours(CONFIGURATION), real, grads),
        OPTAX: of_transformation(pieces(CONFIGURATION), real, grads),
    }


def _race(real: Problem, steps: int, repetitions: int) -> list[Series]:
    contenders = [Contender(n, u.prepare, u, steps) for n, u in _updates(real).items()]
    return race(contenders, which, repetitions, lambda: None)


def _dispatch(settings: Found) -> Row:
    """A step on so few numbers that only the call of it takes time."""
    times = _race(problem([(TINY,)]), settings["calls"], settings["repetitions"])
    return Row(f"a step, one leaf of {TINY}", *times, as_fast=False, goal=GOAL)


def _steps(count: int, repetitions: int) -> Row:
    steps = max(1000 // count, 5)
    times = _race(problem([(WIDTH,)] * count), steps, repetitions)
    return Row(f"a step, {count:,} leaves", *times, as_fast=False, goal=GOAL)


def _compilations(count: int, repetitions: int) -> list[Series]:
    """Of ours and Optax's: tracing and lowering, then what XLA does."""
    params = [jax.ShapeDtypeStruct((WIDTH,), jnp.float32)] * count
    contenders: list[Contender] = []
    for name, tx in ((OURSELVES, ours(CONFIGURATION)), (OPTAX, pieces(CONFIGURATION))):
        held = params, jax.eval_shape(tx.init, params)
        lower = _lowering(optax_step(tx), held, params)
        contenders += [
            Contender(name, _forget, lambda _, lower=lower: lower(), steps=1),
            Contender(name, lambda _, lower=lower: lower(), _compile, steps=1),
        ]
    return race(contenders, _nothing, repetitions, lambda: None, warm_up=1)


def _lowering(step: Callable[..., Any], held: Any, grads: Any) -> Callable[[], Any]:
    # Another function each time, or JAX would remember what it has traced.
    def lower() -> Any:
        def fresh(held: Any, grads: Any) -> Any:
            return step(held, grads)

        return jax.jit(fresh, donate_argnums=0).lower(held, grads)

    return lower


def _nothing(rng: np.random.Generator) -> None:
    del rng


def _forget(drawn: None) -> None:
    del drawn
    jax.clear_caches()


def _compile(lowered: Any) -> None:
    lowered.compile()


def _rows(count: int, times: list[Series]) -> list[Row]:
    traced, compiled, their_traced, their_compiled = times
    named = f"{count:,} leaves"
    return [
        Row(f"tracing, {named}", traced, their_traced, as_fast=False, goal=GOAL),
        Row(f"compiling, {named}", compiled, their_compiled, as_fast=False, goal=GOAL),
        Row(
            f"tracing and compiling, {named}",
            _sum(traced, compiled),
            _sum(their_traced, their_compiled),
            as_fast=False,
            goal=GOAL,
        ),
    ]


def _growth(compiled: dict[int, list[Series]]) -> list[Row]:
    """Milliseconds of tracing and compiling for each leaf, among the most and fewer."""
    (fewer, some), (most, all_) = list(compiled.items())[-2:]
    return [
        Row(
            f"tracing and compiling, {whose}, for each of {most:,} leaves",
            Series(whose, _each(_sum(*all_[at : at + 2]), most)),
            Series(f"of {fewer:,} leaves", _each(_sum(*some[at : at + 2]), fewer)),
            as_fast=False,
            goal=LINEAR if whose == OURSELVES else None,
        )
        for at, whose in ((0, OURSELVES), (2, OPTAX))
    ]


def _sum(traced: Series, compiled: Series) -> Series:
    pairs = zip(traced.milliseconds, compiled.milliseconds, strict=True)
    return Series(traced.name, tuple(a + b for a, b in pairs))


def _each(series: Series, count: int) -> tuple[float, ...]:
    return tuple(time / count for time in series.milliseconds)


def _note() -> str:
    return (
        f"Momentum; leaves of {WIDTH} float32. Growth is linear where a leaf costs the "
        f"same among many: at most {LINEAR} times."
    )


SUITE = Suite(
    name="leaves",
    peers=("optax",),
    settings=_settings,
    measure=_measure,
    markdown=markdown,
    draw=_bars.draw,
)
