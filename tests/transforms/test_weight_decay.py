"""Decoupled decay, and masks by path."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import decay_weights, exclude_paths, rmsprop


class Layer(NamedTuple):
    kernel: Any
    bias: Any


TREE = {
    "encoder": [Layer(1.0, 2.0), Layer(3.0, 4.0)],
    "norm": {"scale": 5.0},
    "head": {"bias_like": 6.0, "unbiased": (7.0,)},
}


def test_paths_of_dictionaries_lists_and_named_tuples() -> None:
    assert exclude_paths("bias$", "^norm/")(TREE) == {
        "encoder": [Layer(True, False), Layer(True, False)],
        "norm": {"scale": False},
        "head": {"bias_like": True, "unbiased": (True,)},
    }
    assert exclude_paths("encoder/1")(TREE)["encoder"] == [
        Layer(True, True),
        Layer(False, False),
    ]


@pytest.mark.parametrize("pattern", ["bias", "^norm", "a.*s", "[01]/kernel", "BIAS", "/"])
def test_searches_as_keras_does(pattern: str) -> None:
    mask = exclude_paths(pattern)(TREE)
    for path, kept in jax.tree_util.tree_leaves_with_path(mask):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert kept == (re.search(pattern, name) is None), name


def test_decays_the_parameter_before_the_step() -> None:
    tx = decay_weights(0.1, 0.5)
    params = jnp.array([2.0, -4.0])
    updates, _ = tx.update(jnp.array([1.0, 1.0]), tx.init(params), params)
    np.testing.assert_allclose(updates, [1 - 0.1, 1 + 0.2], rtol=1e-6)


def test_follows_the_schedule() -> None:
    tx = decay_weights(0.5, lambda count: 1.0 / (count + 1))
    params = jnp.array(6.0)
    state, seen = tx.init(params), []
    for _ in range(3):
        updates, state = tx.update(jnp.array(0.0), state, params)
        seen.append(float(updates))
    np.testing.assert_allclose(seen, [-3.0, -1.5, -1.0], rtol=1e-6)


@pytest.mark.parametrize("mask", [{"a": True, "b": False}, exclude_paths("b")])
def test_masks_are_trees_or_functions(mask: Any) -> None:
    tx = decay_weights(0.5, mask=mask)
    params = {"a": jnp.array(2.0), "b": jnp.array(2.0)}
    zeros = optax.tree.zeros_like(params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    assert updates == {"a": -1.0, "b": 0.0}


def test_a_mask_under_inject_hyperparams_is_static_or_refused() -> None:
    """Optax takes every function for a schedule, calls it with a count, and gets True."""
    params = {"w": jnp.ones(2), "bias": jnp.ones(2)}
    zeros = optax.tree.zeros_like(params)
    options = {"weight_decay": 0.5, "weight_decay_mask": exclude_paths("bias")}
    with pytest.raises(TypeError, match="static_args"):
        optax.inject_hyperparams(rmsprop)(0.1, **options).init(params)
    static = optax.inject_hyperparams(rmsprop, static_args=("weight_decay_mask",))
    tx = static(0.1, **options)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_array_equal(updates["bias"], 0)
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)
