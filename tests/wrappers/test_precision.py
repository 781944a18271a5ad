"""A chain inside `in_float32` rounds once, at its end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import (
    accumulate_gradients,
    dynamic_loss_scale,
    in_float32,
    rmsprop,
    scale_by_learning_rate,
    skip_nonfinite,
)


def test_rounds_once() -> None:
    g = jnp.array(1.0, jnp.bfloat16)
    slower = scale_by_learning_rate(0.998, flip_sign=False)
    tx = optax.chain(*[slower] * 20)
    update, _ = in_float32(tx).update(g, tx.init(g))
    each_stage, _ = tx.update(g, tx.init(g))
    assert update.dtype == each_stage.dtype == jnp.bfloat16
    assert update == jnp.bfloat16(0.998**20)
    assert abs(float(each_stage) - 0.998**20) > 0.004


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_narrow_step_is_the_float32_step_rounded(dtype: jnp.dtype) -> None:
    gs = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), dtype)
    tx = rmsprop(0.1, momentum=0.9, weight_decay=0.1, clipnorm=1.0, centered=True)
    params = jnp.ones(5, dtype)
    state, wide_state = tx.init(params), tx.init(params)
    for g in gs:
        narrow, state = tx.update(g, state, params)
        wide, wide_state = tx.update(g.astype(jnp.float32), wide_state, params)
        assert (narrow.dtype, wide.dtype) == (dtype, jnp.float32)
        np.testing.assert_array_equal(narrow, wide.astype(dtype))


def test_what_is_wide_or_missing_passes() -> None:
    tx = in_float32(optax.identity())
    grads = {"a": jnp.array(1 / 3), "b": None, "c": jnp.array(1 + 2j)}
    updates, _ = tx.update(grads, tx.init(grads))
    assert updates == grads


@pytest.mark.parametrize("jit", [jax.jit, lambda f: f], ids=["jit", "eager"])
@pytest.mark.parametrize(
    "wrap",
    [
        in_float32,
        skip_nonfinite,
        lambda tx: accumulate_gradients(tx, 1),
        lambda tx: dynamic_loss_scale(tx, 1.0),
    ],
    ids=["in_float32", "skip_nonfinite", "accumulate_gradients", "dynamic_loss_scale"],
)
def test_a_moment_that_optax_drops_for_want_of_a_gradient_stays(
    wrap: Any, jit: Any
) -> None:
    tx = wrap(optax.trace(0.5))
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = tx.init(params)
    for a in (jnp.ones(2), None, jnp.zeros(2)):
        updates, state = jit(tx.update)({"a": a, "b": jnp.ones(3)}, state, params)
    np.testing.assert_array_equal(updates["a"], [0.5, 0.5])
    np.testing.assert_array_equal(updates["b"], [1.75, 1.75, 1.75])
