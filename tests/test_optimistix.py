"""Optimistix minimises with every transformation of this package."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from tests.conformance._table import EVERYTHING, INT8

optx = pytest.importorskip(
    "optimistix", reason="needs optimistix: pip install 'rmsprop_optax[test]'"
)


def _minimise(tx: Any, fn: Any, y0: Any, tolerance: float = 1e-3, **given: Any) -> Any:
    solver = optx.OptaxMinimiser(tx, tolerance, tolerance)
    given = {"max_steps": 4000, "throw": False} | given
    return optx.minimise(fn, solver, y0, **given).value


def _squares(y: Any, args: Any) -> jax.Array:
    del args
    return sum((jnp.sum(x**2) for x in jax.tree.leaves(y)), jnp.zeros(()))


RATE = 1e-2
FACTORY = {
    "defaults": {},
    "everything": EVERYTHING,
    "centered, corrected": {"centered": True, "bias_correction": True, "epsilon": 1.0},
    "clipped": {"clipnorm": 1.0, "initial_scale": 1.0, "eps_in_sqrt": False},
    "clipped values": {"clipvalue": 0.5},
    "int8": {"momentum": 0.9, "moment_storage": INT8},
    "a tree as mask": {"weight_decay": 0.1, "weight_decay_mask": {"x": True, "z": False}},
}
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "accumulate_gradients": lambda tx: ro.accumulate_gradients(tx, 2),
    "accumulate_gradients, 1": lambda tx: ro.accumulate_gradients(tx, 1),
    "cautious": ro.cautious,
    "dynamic_loss_scale": ro.dynamic_loss_scale,
    "in_float32": ro.in_float32,
    "lazy": ro.sparse.lazy,
    "low_precision": lambda tx: ro.low_precision(tx, INT8),
    "skip_nonfinite": ro.skip_nonfinite,
    "split_complex": ro.split_complex,
}
TRANSFORMATIONS: dict[str, Callable[[], Any]] = {
    **{
        f"rmsprop, {name}": lambda given=given: ro.rmsprop(RATE, **given)
        for name, given in FACTORY.items()
    },
    "rmsprop, a schedule": lambda: ro.rmsprop(optax.linear_schedule(RATE, 0.0, 1000)),
    "rmsprop, live": lambda: ro.rmsprop(lambda: RATE),
    "rmsprop, injected": lambda: optax.inject_hyperparams(ro.rmsprop)(RATE),
    **{
        name: lambda name=name: getattr(ro.dialects, name)(RATE)
        for name in ro.dialects.__all__
    },
    **{name: lambda wrap=wrap: wrap(optax.adam(RATE)) for name, wrap in WRAPPERS.items()},
    "partition": lambda: optax.partition(
        {"a": ro.rmsprop(RATE), "b": ro.dialects.torch(RATE)}, {"x": "a", "z": "b"}
    ),
}


def _by_default(names: Iterable[str], default: Collection[str]) -> list[Any]:
    """All names; those that are not in ``default`` are slow."""
    return [
        pytest.param(name, marks=[] if name in default else pytest.mark.slow)
        for name in names
    ]


# Each kind of value that a transformation closes over: numbers, functions of paths and of
# steps, a tree, a storage, other transformations.
MINIMISE = (
    "rmsprop, int8",
    "rmsprop, a tree as mask",
    "rmsprop, a schedule",
    "rmsprop, live",
    "rmsprop, injected",
    "timm",
    "lazy",
    "partition",
)


@pytest.mark.parametrize("name", _by_default(TRANSFORMATIONS, MINIMISE))
def test_minimise(name: str) -> None:
    """Downhill, and a second one that was built alike is not traced again."""
    y0 = {"x": jnp.ones(2), "z": jnp.ones((3, 2))}
    calls: list[int] = []

    def fn(y: Any, args: Any) -> jax.Array:
        calls.append(1)
        return _squares(y, args)

    first = _minimise(TRANSFORMATIONS[name](), fn, y0, max_steps=200)
    traced = len(calls)
    assert _squares(first, None) < _squares(y0, None)
    if name == "rmsprop, live":  # its callable is another one
        return
    second = _minimise(TRANSFORMATIONS[name](), fn, y0, max_steps=200)
    assert len(calls) == traced
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_two_rates_are_compiled_once() -> None:
    """Optimistix's own `test_optax_recompilation`, with these transformations."""

    def made(rate: float) -> Any:
        inner = ro.rmsprop(jnp.array(rate), momentum=jnp.array(0.5))
        schedule = optax.piecewise_constant_schedule(1, {200: 0.1})
        return optax.chain(
            ro.accumulate_gradients(inner, 1), ro.scale_by_learning_rate(schedule)
        )

    calls: list[int] = []

    def fn(y: Any, args: Any) -> jax.Array:
        calls.append(1)
        return _squares(y, args)

    first = _minimise(made(1e-3), fn, jnp.ones(2), max_steps=9)
    traced = len(calls)
    second = _minimise(made(1e-2), fn, jnp.ones(2), max_steps=9)
    assert len(calls) == traced
    assert (first != second).all()


def test_a_live_rate_is_read_in_the_loop() -> None:
    now = {"rate": 0.0}
    tx = ro.rmsprop(lambda: now["rate"])
    solver = optx.OptaxMinimiser(tx, 1e-9, 1e-9)
    given = {"max_steps": 5, "throw": False}
    still = optx.minimise(_squares, solver, jnp.ones(2), **given).value
    now["rate"] = 0.1
    moved = optx.minimise(_squares, solver, jnp.ones(2), **given).value
    np.testing.assert_array_equal(still, jnp.ones(2))
    assert (moved < 0.9).all()


DIFFERENTIATED = {
    "rmsprop": lambda: ro.rmsprop(RATE),
    "rmsprop, centered": lambda: ro.rmsprop(RATE, centered=True, momentum=0.5),
    **{
        name: TRANSFORMATIONS[name]
        for name in (*ro.dialects.__all__, *WRAPPERS)
        if name != "dynamic_loss_scale"  # minimises the loss, which is not scaled
    },
}


@pytest.mark.parametrize(
    "name",
    _by_default(DIFFERENTIATED, ("rmsprop, centered", "accumulate_gradients", "lazy")),
)
def test_derivatives_of_the_minimum(name: str) -> None:
    """The minimum of (y - a)² is a, so its derivative is 1, by the implicit adjoint."""

    def minimum(a: jax.Array) -> jax.Array:
        def fn(y: Any, a: Any) -> Any:
            return jnp.sum((y - a) ** 2)

        return jnp.sum(_minimise(DIFFERENTIATED[name](), fn, jnp.zeros(2), args=a))

    np.testing.assert_allclose(jax.grad(minimum)(jnp.array([0.5, 0.3])), 1.0, rtol=1e-4)


def _bowl(y: Any, args: Any) -> jax.Array:
    """A quadratic form."""
    del args
    weights = jnp.array([[2.0, -1.0], [-1.0, 3.0]])
    return y @ weights @ y


def _matyas(y: Any, args: Any) -> jax.Array:
    del args
    return 0.26 * (y[0] ** 2 + y[1] ** 2) - 0.48 * y[0] * y[1]


def _beale(y: Any, args: Any) -> jax.Array:
    del args
    powers = jnp.array([1, 2, 3])
    targets = jnp.array([1.5, 2.25, 2.625])
    return jnp.sum((targets - y[0] * (1 - y[1] ** powers)) ** 2)


def _himmelblau(y: Any, args: Any) -> jax.Array:
    del args
    return (y[0] ** 2 + y[1] - 11) ** 2 + (y[0] + y[1] ** 2 - 7) ** 2


PROBLEMS = {
    "bowl": [1.5, -1.0],
    "matyas": [6.0, 6.0],
    "beale": [2.0, 0.0],
    "himmelblau": [1.0, 1.0],
}


def _problem(y: Any, which: jax.Array) -> jax.Array:
    """The problem of this number: a solver compiles once for all."""
    return jax.lax.switch(which, [_bowl, _matyas, _beale, _himmelblau], y, None)


RATES = optax.cosine_decay_schedule(0.05, 10_000)
SOLVERS = {
    "rmsprop": lambda rate: ro.rmsprop(rate, 0.99),
    "centered": lambda rate: ro.rmsprop(rate, momentum=0.9, centered=True),
    "torch": lambda rate: ro.dialects.torch(rate, momentum=0.9),
    "optax": lambda rate: ro.dialects.optax(rate, bias_correction=True),
    "low_precision": lambda rate: ro.low_precision(optax.adam(rate), INT8),
    "lazy": lambda rate: ro.sparse.lazy(ro.skip_nonfinite(optax.adam(rate))),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_problems_of_optimistix(solver: str, problem: str) -> None:
    """The functions of its `tests/helpers.py`; the minimum of each is 0."""
    start, which = jnp.array(PROBLEMS[problem]), jnp.array([*PROBLEMS].index(problem))
    tx = SOLVERS[solver](RATES)
    found = _minimise(tx, _problem, start, 1e-9, args=which, max_steps=10_000)
    assert _problem(found, which) < 1e-4
