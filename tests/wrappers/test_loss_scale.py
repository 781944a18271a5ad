"""The dynamic loss scale: when it doubles, when it halves, what it counts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import (
    consecutive_errors,
    dynamic_loss_scale,
    rmsprop,
    scale_loss,
    skip_nonfinite,
)


def test_growth_halving_and_counters() -> None:
    tx = dynamic_loss_scale(optax.trace(0.0), 8.0, dynamic_growth_steps=3)
    state = tx.init(jnp.array(0.0))
    update = jax.jit(tx.update)
    seen = []
    for g in [1.0, 1.0, np.inf, 1.0, 1.0, 1.0, 1.0, np.nan, np.nan, 1.0]:
        updates, state = update(jnp.array(g), state)
        seen.append((float(updates), int(state.count), float(state.loss_scale)))
    assert seen == [
        (1 / 8, 1, 8.0),
        (1 / 8, 2, 8.0),
        (0.0, 0, 4.0),
        (1 / 4, 1, 4.0),
        (1 / 4, 2, 4.0),
        (1 / 4, 0, 8.0),
        (1 / 8, 1, 8.0),
        (0.0, 0, 4.0),
        (0.0, 0, 2.0),
        (1 / 2, 1, 2.0),
    ]
    assert update._cache_size() == 1
    assert (state.notfinite_count, state.total_notfinite) == (0, 3)


def test_a_run_that_is_frozen_says_so() -> None:
    tx = dynamic_loss_scale(optax.trace(0.0), 8.0, max_consecutive_errors=2)
    params = jnp.array(0.0)
    wrappers = (optax.identity(), tx, skip_nonfinite(optax.identity()))
    chain = optax.chain(*wrappers, optax.apply_if_finite(optax.identity(), 9))
    state, update = chain.init(params), jax.jit(chain.update)
    counts, updates = [], params
    for gradient in (np.inf, np.nan, 1.0, np.nan, np.inf, np.inf):
        updates, state = update(jnp.array(gradient), state)
        counts.append(int(consecutive_errors(state)))
    assert counts == [1, 2, 0, 1, 2, 3]
    scaled: Any = state[1]
    assert scaled.total_notfinite == 5
    # The third in a row was applied here, and dropped by the next wrapper.
    assert scaled.inner_state.trace == np.inf
    assert updates == 0
    assert scaled.loss_scale == 8 / 2**5
    with pytest.raises(ValueError, match="put the transformation into `skip_nonfinite`"):
        consecutive_errors(optax.trace(0.9).init(params))
    with pytest.raises(ValueError, match="has lost its classes"):
        consecutive_errors({"notfinite_count": params})
    with pytest.raises(ValueError, match="`max_consecutive_errors`"):
        dynamic_loss_scale(optax.identity(), max_consecutive_errors=0)


def test_the_inner_state_does_not_move_on_a_bad_step() -> None:
    tx = dynamic_loss_scale(rmsprop(momentum=0.9))
    params = jnp.ones(2)
    state = tx.init(params)
    _, state = tx.update(jnp.array([1.0, 2.0]), state, params)
    updates, after = tx.update(jnp.array([1.0, jnp.inf]), state, params)
    assert not updates.any()
    jax.tree.map(np.testing.assert_array_equal, after.inner_state, state.inner_state)


@pytest.mark.parametrize("loss_scale", [2.0**-3, 2.0**15])
def test_powers_of_two_cancel_to_the_bit(loss_scale: float) -> None:
    def run(tx: optax.GradientTransformation) -> Any:
        params = jnp.array([3.0, -2.0])
        state = tx.init(params)
        for _ in range(5):
            loss = lambda p, s: scale_loss(jnp.sum(p**2), s)  # noqa: E731
            updates, state = tx.update(jax.grad(loss)(params, state), state, params)
            params = optax.apply_updates(params, updates)
        return params

    scaled = run(dynamic_loss_scale(rmsprop(0.1), loss_scale, dynamic_growth_steps=2))
    np.testing.assert_array_equal(scaled, run(rmsprop(0.1)))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_a_million_steps(dtype: Any) -> None:
    """Long stretches without one good step, or without one bad: it always recovers."""
    tx = dynamic_loss_scale(rmsprop(0.05), dynamic_growth_steps=20)
    params = jnp.ones(2, dtype)
    stretches = [(300_000, True), (300_000, False), (200, True), (399_800, False)]
    bad = np.concatenate([np.full(n, kind) for n, kind in stretches])

    def step(carry: Any, is_bad: jax.Array) -> Any:
        params, state, least, largest = carry

        def loss_fn(params: jax.Array) -> jax.Array:
            loss = jnp.sum(jnp.cos(params)) * jnp.where(is_bad, jnp.nan, 1).astype(dtype)
            return scale_loss(loss, state)

        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        scale = state.loss_scale
        bounds = jnp.minimum(least, scale), jnp.maximum(largest, scale)
        return (optax.apply_updates(params, updates), state, *bounds), None

    start = (params, tx.init(params), jnp.float32(1), jnp.float32(1))
    end = jax.jit(lambda c, x: jax.lax.scan(step, c, x)[0])(start, jnp.asarray(bad))
    params, state, least, largest = end
    assert 0 < float(least) < 2.0**-120
    assert 2.0**10 < float(largest) < np.inf
    assert 2.0**10 < float(state.loss_scale) < np.inf
    # It trained: the cosine has its minimum at pi.
    np.testing.assert_allclose(np.asarray(params, np.float32), np.pi, rtol=0.05)
