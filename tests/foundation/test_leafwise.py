"""What an elementwise rule is given, and what it returns."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from rmsprop_optax._foundation._leafwise import init_moment, map_leaves, map_moments


@pytest.mark.parametrize(
    ("gradient", "kept", "seen"),
    [
        ("bfloat16", "float32", "float32"),
        ("float16", "bfloat16", "float32"),
        ("float32", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("float64", "float32", "float64"),
        ("complex64", "float32", "complex64"),
        ("complex64", "float64", "complex128"),
    ],
)
def test_a_rule_computes_in_float32_or_wider(gradient: str, kept: str, seen: str) -> None:
    with jax.enable_x64(True):
        dtypes = []

        def rule(g: jax.Array, m: jax.Array) -> tuple[jax.Array, jax.Array]:
            dtypes.append(str(g.dtype))
            return g * 2, m + 1

        update, moment = map_moments(rule, jnp.ones(2, gradient), jnp.ones(2, kept))
        assert dtypes == [seen]
        assert (str(update.dtype), str(moment.dtype)) == (gradient, kept)
        assert (float(update[0].real), float(moment[0])) == (2.0, 2.0)


def test_a_leaf_without_a_gradient_is_skipped() -> None:
    seen = []

    def rule(g: jax.Array, m: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen.append(g.shape)
        return g, m + 1

    tree = {"a": jnp.ones(2), "b": None, "c": None}
    updates, moments = map_moments(rule, tree, {"a": jnp.ones(2), "b": 5.0, "c": None})
    assert seen == [(2,)]
    assert updates["b"] is None
    assert moments["b"] == 5.0
    assert moments["c"] is None


def test_parameters_arrive_as_they_are_held() -> None:
    dtypes: list[Any] = []

    def rule(g: jax.Array, p: jax.Array) -> jax.Array:
        dtypes.append((g.dtype, p.dtype))
        return g

    map_leaves(rule, jnp.ones(2, "bfloat16"), params=jnp.ones(2, "bfloat16"))
    assert dtypes == [(jnp.float32, jnp.bfloat16)]


@pytest.mark.parametrize(
    ("params", "real", "moment"),
    [
        ("bfloat16", False, "float32"),
        ("float16", True, "float32"),
        ("float64", False, "float64"),
        ("complex64", False, "complex64"),
        ("complex64", True, "float32"),
        ("complex128", True, "float64"),
    ],
)
def test_the_dtype_of_a_moment(params: str, real: bool, moment: str) -> None:
    with jax.enable_x64(True):
        moment_of = init_moment({"a": jnp.ones((2, 3), params)}, 0.5, real=real)["a"]
        assert str(moment_of.dtype) == moment
        assert moment_of.shape == (2, 3)
        assert float(moment_of[1, 2].real) == 0.5
        assert not moment_of.weak_type
