"""Narrow parameters that learn from updates below their precision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import apply_updates_stochastic
from rmsprop_optax.sparse import RowSlices


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_updates_add_up(dtype: str) -> None:
    """The sum of 1,000 times 1e-3, within 5 standard errors of 4,096 tries."""
    p = jnp.ones(4096, dtype)
    update = jnp.full(4096, -1e-3, jnp.float32)

    def step(p: Any, key: jax.Array) -> tuple[Any, None]:
        return apply_updates_stochastic(p, update, key), None

    keys = jax.random.split(jax.random.key(0), 1000)
    got, _ = jax.jit(lambda p: jax.lax.scan(step, p, keys))(p)
    got = np.asarray(got, np.float64)
    assert got.std() > 1e-3
    assert abs(got.mean()) < 5 * got.std() / 64

    def nearest(p: Any, _: None) -> tuple[Any, None]:
        return optax.apply_updates(p, update), None

    stuck, _ = jax.lax.scan(nearest, p, length=1000)
    if dtype == "bfloat16":
        np.testing.assert_array_equal(np.asarray(stuck, np.float32), 1.0)


def test_wide_parameters_are_exact() -> None:
    key = jax.random.key(0)
    params = {
        "a": jax.random.normal(key, (50,)),
        "c": jnp.ones(3, jnp.complex64),
        "n": None,
    }
    updates = {"a": jnp.full(50, 1e-9), "c": jnp.full(3, 1e-3j), "n": None}
    got = apply_updates_stochastic(params, updates, key)
    expected = optax.apply_updates(params, updates)
    for name in ("a", "c"):
        np.testing.assert_array_equal(got[name], expected[name])
    assert got["n"] is None


@pytest.mark.parametrize("jitted", [False, True])
def test_odd_trees(jitted: bool) -> None:
    params = {
        "scalar": jnp.bfloat16(1.0),
        "empty": jnp.zeros((0, 3), jnp.bfloat16),
        "still": jnp.ones(2, jnp.bfloat16),
        "list": [jnp.ones((2, 2), jnp.float16)],
    }
    updates = jax.tree.map(lambda p: jnp.full(p.shape, 0.5, jnp.bfloat16), params)
    updates["still"] = None
    apply = jax.jit(apply_updates_stochastic) if jitted else apply_updates_stochastic
    got = apply(params, updates, jax.random.key(0))
    assert jax.tree.structure(got) == jax.tree.structure(params)
    assert got["scalar"].dtype == "bfloat16"
    assert got["scalar"] == 1.5
    assert np.all(got["still"] == 1)
    assert np.all(got["list"][0] == 1.5)


def test_only_the_rows_that_are_given() -> None:
    table = jnp.ones((5, 2), jnp.bfloat16)
    rows = RowSlices(jnp.array([3, 1, 3]), jnp.full((3, 2), 0.25), (5, 2))
    got = apply_updates_stochastic({"t": table}, {"t": rows}, jax.random.key(0))["t"]
    np.testing.assert_array_equal(got[:, 0], [1, 1.25, 1, 1.5, 1])


def test_leaves_and_keys_are_rounded_differently() -> None:
    params = {"a": jnp.ones(1000, jnp.bfloat16), "b": jnp.ones(1000, jnp.bfloat16)}
    updates = jax.tree.map(lambda p: jnp.full(p.shape, 0.003), params)
    one = apply_updates_stochastic(params, updates, jax.random.key(0))
    two = apply_updates_stochastic(params, updates, jax.random.key(1))
    assert 0.2 < np.mean(one["a"] != one["b"]) < 0.8
    assert 0.2 < np.mean(one["a"] != two["a"]) < 0.8
    again = apply_updates_stochastic(params, updates, jax.random.key(0))
    np.testing.assert_array_equal(one["a"], again["a"])


@pytest.mark.parametrize(
    ("params", "updates", "words"),
    [
        ({"w": jnp.ones(3)}, {"w": jnp.ones(4)}, r"'w' has shape \(4,\)"),
        ({"w": jnp.ones(3)}, {"v": jnp.ones(3)}, "missing: w; not known: v"),
    ],
)
def test_bad_input(params: Any, updates: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        apply_updates_stochastic(params, updates, jax.random.key(0))


def test_integers() -> None:
    with pytest.raises(TypeError, match="'w' has dtype int32"):
        apply_updates_stochastic(
            {"w": jnp.ones(3, jnp.int32)}, {"w": jnp.ones(3)}, jax.random.key(0)
        )
