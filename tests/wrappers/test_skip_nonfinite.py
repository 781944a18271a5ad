"""A step that is dropped leaves everything as it was, to the last bit."""

# Optax's trees are typed as unions of which most can't be indexed.
# pyright: reportIndexIssue=false, reportOperatorIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import rmsprop, skip_nonfinite

ARGUMENTS: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "centered": {"centered": True, "bias_correction": True},
    "average": {"use_ema": True, "ema_overwrite_frequency": 2, "weight_decay": 0.1},
    "accumulation": {"gradient_accumulation_steps": 3, "momentum": 0.9},
    "clip and scale": {"global_clipnorm": 1.0, "loss_scale_factor": 8.0},
}


def _assert_same(ours: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_bad_step_might_as_well_not_have_been(kind: str) -> None:
    tx = rmsprop(0.1, skip_nonfinite=True, **ARGUMENTS[kind])
    gs = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    bad = {1: np.inf, 3: np.nan, 4: -np.inf}

    @jax.jit
    def step(g: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
        updates, opt_state = tx.update(g, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def run(skipping: bool) -> tuple[Any, Any]:
        params = {"a": jnp.ones(2), "b": jnp.ones(())}
        opt_state: Any = tx.init(params)
        for t, g in enumerate(gs):
            if t in bad:
                if skipping:
                    g = np.array([g[0], bad[t]], np.float32)
                else:
                    continue
            grads = {"a": jnp.asarray(g), "b": jnp.asarray(g[0])}
            before = params, opt_state.inner_state
            params, opt_state = step(grads, opt_state, params)
            if t in bad:
                _assert_same((params, opt_state.inner_state), before)
        return params, opt_state

    params, opt_state = run(skipping=True)
    expected, expected_state = run(skipping=False)
    _assert_same(params, expected)
    _assert_same(opt_state.inner_state, expected_state.inner_state)
    assert opt_state.total_notfinite == 3
    assert expected_state.total_notfinite == 0
    assert step._cache_size() == 1


def test_one_bad_leaf_drops_the_whole_step() -> None:
    tx = skip_nonfinite(optax.scale(2.0))
    grads = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(jnp.nan)}
    updates, state = tx.update(grads, tx.init(grads))
    assert not updates["a"].any()
    assert updates["b"] == 0
    assert state.total_notfinite == 1


def test_never_gives_up() -> None:
    tx = skip_nonfinite(optax.scale(2.0))
    state = tx.init(jnp.array(0.0))
    for _ in range(50):
        updates, state = tx.update(jnp.array(jnp.inf), state)
        assert updates == 0.0
    assert state.total_notfinite == 50


def test_complex_and_missing_gradients() -> None:
    tx = skip_nonfinite(optax.identity())
    grads = {"a": jnp.array(1 + 1j * jnp.nan), "b": None}
    updates, state = tx.update(grads, tx.init(grads))
    assert (updates["a"], updates["b"], state.total_notfinite) == (0, None, 1)


def test_giving_up_is_that_of_optax() -> None:
    inner = optax.trace(0.9)
    mine = skip_nonfinite(inner, max_consecutive_errors=2)
    theirs = optax.apply_if_finite(inner, 2)
    params = jnp.ones(2)
    state, other = mine.init(params), theirs.init(params)
    for value in (1.0, np.nan, np.inf, 1.0, np.nan, np.nan, np.nan, 1.0):
        grads = jnp.array([value, 1.0])
        updates, state = jax.jit(mine.update)(grads, state, params)
        expected, other = jax.jit(theirs.update)(grads, other, params)
        np.testing.assert_array_equal(updates, expected)
        np.testing.assert_array_equal(state.inner_state.trace, other.inner_state.trace)
        assert int(state.notfinite_count) == int(other.notfinite_count)
        assert int(state.total_notfinite) == int(other.total_notfinite)
    assert np.isnan(state.inner_state.trace[0])  # the third NaN in a row was let through
    for wrong, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="`max_consecutive_errors`"):
            skip_nonfinite(inner, max_consecutive_errors=wrong)  # pyright: ignore[reportArgumentType]
