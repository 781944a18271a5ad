"""The clips against Optax's, and where squares leave float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    rmsprop,
    rules,
)


def _apply(tx: optax.GradientTransformation, grads: Any) -> Any:
    return jax.jit(lambda g: tx.update(g, tx.init(g))[0])(grads)


def _tree(scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(scale * rng.normal(size=(3, 4)), jnp.float32),
        "b": [jnp.asarray(scale * rng.normal(size=3), jnp.float32), jnp.float32(scale)],
    }


def _assert_close(ours: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, expected)


@jax.jit
def _ours(bound: Any, grads: Any) -> Any:
    clips = (clip_by_value, clip_by_global_norm, clip_by_norm)
    return [clip(bound).update(grads, optax.EmptyState())[0] for clip in clips]


@jax.jit
def _theirs(bound: Any, grads: Any) -> Any:
    """By value, by the norm of all leaves, and by that of each leaf."""
    by_norm = optax.clip_by_global_norm(bound)

    def clipped(tx: optax.GradientTransformation, grads: Any) -> Any:
        return tx.update(grads, tx.init(grads))[0]

    each = jax.tree.map(lambda g: clipped(by_norm, g), grads)
    return [clipped(optax.clip(bound), grads), clipped(by_norm, grads), each]


@pytest.mark.parametrize("bound", [0.01, 0.5, 1.0, 2.0, 100.0])
def test_are_optax(bound: float) -> None:
    _assert_close(_ours(bound, _tree()), _theirs(bound, _tree()))


@pytest.mark.parametrize("clip", [clip_by_norm, clip_by_global_norm])
def test_below_the_bound_nothing_changes_a_bit(clip: Any) -> None:
    for scale in (1.0, 1e-30):
        grads = _tree(scale)
        jax.tree.map(np.testing.assert_array_equal, _apply(clip(1e3), grads), grads)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_global_norm_where_squares_leave_float32(scale: float) -> None:
    grads, bound = _tree(scale), scale / 100
    wide = [np.asarray(g, np.float64) for g in jax.tree.leaves(grads)]
    total = np.sqrt(sum(np.sum(g**2) for g in wide))
    clipped = _apply(clip_by_global_norm(bound), grads)
    for ours, g in zip(jax.tree.leaves(clipped), wide, strict=True):
        np.testing.assert_allclose(ours, g * bound / total, rtol=1e-5)


def test_the_norm_is_taken_in_float32() -> None:
    """bf16 has 8 bits: 300 squares of 1 summed in it would stop at 256."""
    for dtype in (jnp.bfloat16, jnp.float16):
        grads = {"a": jnp.ones(10_000, dtype)}
        clipped = _apply(clip_by_global_norm(1.0), grads)["a"]
        assert clipped.dtype == dtype
        np.testing.assert_allclose(clipped.astype(jnp.float32), 0.01, rtol=4e-3)


def test_complex_leaves() -> None:
    grads = jnp.array([3 + 4j, 0j])
    np.testing.assert_allclose(_apply(clip_by_norm(1.0), grads), [0.6 + 0.8j, 0])
    np.testing.assert_allclose(_apply(clip_by_global_norm(1.0), grads), [0.6 + 0.8j, 0])
    np.testing.assert_allclose(_apply(clip_by_value(1.0), grads), [1 + 1j, 0])


def test_missing_leaves_and_empty_trees() -> None:
    for clip in (clip_by_norm, clip_by_value, clip_by_global_norm):
        clipped = _apply(clip(1.0), {"a": jnp.array([5.0]), "b": None})
        assert clipped["b"] is None
        np.testing.assert_allclose(clipped["a"], [1.0])
        assert _apply(clip(1.0), {}) == {}


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_a_clipped_step_needs_no_memory_of_its_own(clip: str) -> None:
    """The clipped gradient is made where it is used, and written nowhere.

    What the norm itself needs is not counted: older releases of XLA write the squares.
    """
    tx = rmsprop(0.1, **{clip: 1.0})

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def temporaries(function: Any, *args: Any) -> int:
        return function.lower(*args).compile().memory_analysis().temp_size_in_bytes

    params = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    state = jax.eval_shape(tx.init, params)
    clipped = temporaries(jax.jit(step, donate_argnums=(0, 1)), params, state, params)
    norm = temporaries(jax.jit(lambda g: rules.norm([g])), params)
    assert clipped - norm < 512 * 512  # a leaf is 2^20


@pytest.mark.parametrize("clip", [clip_by_norm, clip_by_global_norm])
def test_ratios_up_to_the_largest_that_is_right(clip: Any) -> None:
    """Beyond 1.3e30 times the bound an update is 0."""
    for bound, values in ((1e-9, [3e20, 4e20]), (1e8, [3e37, 4e37]), (1e-30, [0, 0])):
        g = jnp.array(values, jnp.float32)
        updates, _ = jax.jit(clip(bound).update)(g, optax.EmptyState())
        exact = np.array(values) * bound / max(np.hypot(*values), bound)
        np.testing.assert_allclose(updates, exact, rtol=1e-6)
    updates, _ = clip(1.0).update(jnp.array([3e37, 1.0]), optax.EmptyState())
    np.testing.assert_array_equal(updates, 0.0)


@pytest.mark.parametrize("clip", [clip_by_norm, clip_by_global_norm])
def test_the_derivative_at_zero(clip: Any) -> None:
    def clipped(g: jax.Array) -> jax.Array:
        return clip(1.0).update(g, optax.EmptyState())[0].sum()

    np.testing.assert_array_equal(jax.grad(clipped)(jnp.zeros(3)), np.ones(3))
