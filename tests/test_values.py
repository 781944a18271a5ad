"""A transformation is an ordinary value: two that were built alike are one.

Programs such as Optimistix take the closures of a transformation apart, as
`equinox.internal.closure_to_pytree` does, and compile once for each value: arrays are
traced, all else is compared and hashed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from tests.conformance._table import EVERYTHING, MANY, TABLE

eqx = pytest.importorskip("equinox", reason="needs equinox")
eqxi = pytest.importorskip("equinox.internal", reason="needs equinox")

PARAMS = {"table": jnp.ones((4, 2)), "bias": jnp.ones(3)}
MASK = {"table": True, "bias": False}
ROWS: dict[str, Callable[[], optax.GradientTransformation]] = {
    **TABLE,
    "keras": lambda: ro.dialects.keras(0.1),
    "a schedule": lambda: ro.rmsprop(optax.linear_schedule(0.1, 0.0, 9)),
    "a live rate": lambda: ro.rmsprop(dict),  # a class: one object, as a function is
    "rates by updates": lambda: ro.rmsprop(
        optax.linear_schedule(0.1, 0.0, 9),
        weight_decay=optax.linear_schedule(0.1, 0.0, 9),
        weight_decay_mask=MASK,
        gradient_accumulation_steps=3,
    ),
    "a corrected decay": lambda: ro.dialects.timm(
        0.1, weight_decay=0.1, decoupled_decay=True, corrected_weight_decay=True
    ),
    "accumulated rows": lambda: ro.rmsprop(
        gradient_accumulation_steps=2, accumulate_rows={"table": 4}
    ),
    "RowSums": lambda: ro.accumulate_gradients(
        ro.sparse.lazy(optax.adam(0.1)), 2, ro.sparse.RowSums({"table": 4})
    ),
    "a schedule of calls": lambda: ro.accumulate_gradients(
        optax.adam(0.1), optax.constant_schedule(2)
    ),
    "fields": lambda: ro.low_precision(
        optax.adam(0.1), ro.MomentStorage("int8", fields={"mu": "full"}, min_size=0)
    ),
    "in a partition": lambda: optax.partition(
        {"a": ro.rmsprop(0.1), "b": ro.dialects.torch(0.1)}, {"table": "a", "bias": "b"}
    ),
    "injected": lambda: optax.inject_hyperparams(ro.rmsprop)(0.1),
}


def _static(tx: Any) -> tuple[list[Any], Any]:
    """What is compared when a program with ``tx`` is looked up: all but the arrays."""
    leaves, structure = jax.tree.flatten(eqxi.closure_to_pytree(tx))
    return [None if eqx.is_array(leaf) else leaf for leaf in leaves], structure


# Slow: the closures of "rmsprop, everything" are compared for seconds, and once more in
# `test_numbers_that_are_arrays_are_leaves`.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in MANY else [])
        for name in ROWS
    ],
)
def test_two_that_were_built_alike_are_equal(name: str) -> None:
    first, second = _static(ROWS[name]()), _static(ROWS[name]())
    assert first == second
    assert hash((*first[0], first[1])) == hash((*second[0], second[1]))


def test_two_that_were_not_are_not() -> None:
    different = [
        ro.rmsprop(0.1),
        ro.rmsprop(0.2),
        ro.rmsprop(0.1, momentum=0.9),
        ro.rmsprop(0.1, moment_storage=ro.MomentStorage("int8")),
        ro.rmsprop(0.1, moment_storage=ro.MomentStorage("int8", fields={"a": "full"})),
        ro.rmsprop(0.1, gradient_accumulation_steps=2),
        ro.rmsprop(0.1, gradient_accumulation_steps=2, accumulate_rows={"table": 4}),
        ro.rmsprop(0.1, gradient_accumulation_steps=2, accumulate_rows={"table": 5}),
    ]
    for i, first in enumerate(different):
        assert all(_static(first) != _static(other) for other in different[i + 1 :])


NUMBERS = {
    "learning_rate": 0.125,
    "rho": 0.75,
    "momentum": 0.5,
    "epsilon": 0.25,
    "weight_decay": 0.375,
    "global_clipnorm": 4.0,
    "ema_momentum": 0.625,
    "loss_scale_factor": 8.0,
    "initial_scale": 2.0,
    "ema_overwrite_frequency": 3,
    "gradient_accumulation_steps": 2,
}


# Without the wrapper that has no number: it triples the closures.
MANY_STAGES = EVERYTHING | {"skip_nonfinite": False}


def test_numbers_that_are_arrays_are_leaves() -> None:
    """Each number of the factory: another one needs no other program."""
    traces: list[int] = []

    @eqx.filter_jit
    def three_steps(tx: Any, params: Any) -> Any:
        traces.append(1)

        def step(carry: Any, scale: jax.Array) -> tuple[Any, None]:
            params, state = carry
            grads = jax.tree.map(lambda p: scale * p, params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        scales = jnp.array([1.0, 2.0, 3.0])
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), scales)
        return params

    other = {n: 5 if isinstance(x, int) else x / 2 for n, x in NUMBERS.items()}
    for numbers in (NUMBERS, other):
        arrays = {n: jnp.asarray(x) for n, x in numbers.items()}
        tx = ro.rmsprop(**MANY_STAGES | arrays)
        found = jax.tree.leaves(eqxi.closure_to_pytree(tx))
        for array in arrays.values():
            assert any(leaf is array for leaf in found)
        result = three_steps(eqxi.closure_to_pytree(tx), PARAMS)
        expected = three_steps.__wrapped__(ro.rmsprop(**MANY_STAGES | numbers), PARAMS)
        for name, value in result.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-6)
    assert len(traces) == 3  # one program, and two runs without


RATES = {
    **{name: getattr(ro.dialects, name) for name in ro.dialects.__all__},
    "corrected": lambda rate: ro.dialects.timm(
        rate, weight_decay=0.1, decoupled_decay=True, corrected_weight_decay=True
    ),
    "inverse time": lambda rate: ro.dialects.tf_keras(rate, decay=rate),
    "scale_by_learning_rate": ro.scale_by_learning_rate,
    "decay_weights": lambda rate: ro.decay_weights(rate, rate),
    "unscale_loss": ro.unscale_loss,
    "clip_by_norm": ro.clip_by_norm,
    "dynamic_loss_scale": lambda rate: ro.dynamic_loss_scale(optax.sgd(0.1), rate),
    "accumulate_gradients": lambda rate: ro.accumulate_gradients(
        optax.sgd(0.1), jnp.where(rate < 0.3, 1, 2)
    ),
    "low_precision": lambda rate: ro.low_precision(ro.rmsprop(rate), "bfloat16"),
}


@pytest.mark.parametrize("name", RATES)
def test_two_rates_are_one_program(name: str) -> None:
    traces, results = [], []

    @eqx.filter_jit
    def step(tx: Any, params: Any) -> Any:
        traces.append(1)
        return tx.update(params, tx.init(params), params)

    for rate in (jnp.array(0.25), jnp.array(0.5)):
        tx = RATES[name](rate)
        results.append(step(eqxi.closure_to_pytree(tx), PARAMS))
        expected = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
        for leaf, other in zip(
            *map(jax.tree.leaves, (results[-1], expected)), strict=True
        ):
            np.testing.assert_allclose(
                leaf, other, rtol=1e-2 if leaf.dtype.itemsize < 4 else 2e-6
            )
    assert len(traces) == 1
    assert any(
        (leaf != other).any()
        for leaf, other in zip(*map(jax.tree.leaves, results), strict=True)
    )


def test_a_live_rate_is_not_copied() -> None:
    now = {"rate": 0.5}
    tx = eqxi.closure_to_pytree(ro.rmsprop(lambda: now["rate"], rho=0.0, epsilon=0.0))

    @eqx.filter_jit
    def step(tx: Any) -> Any:
        return tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0]

    np.testing.assert_array_equal(step(tx), [-0.5, -0.5])
    now["rate"] = 0.25
    np.testing.assert_array_equal(step(tx), [-0.25, -0.25])


def test_what_is_taken_apart_can_be_described() -> None:
    tx = ro.rmsprop(jnp.array(0.1), weight_decay=0.5, weight_decay_mask=MASK)
    found = ro.describe(eqxi.closure_to_pytree(tx), PARAMS)
    assert found.splitlines()[1:] == ro.describe(tx, PARAMS).splitlines()
