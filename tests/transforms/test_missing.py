"""Zeros for what has no gradient."""

# Optax's trees are typed as unions of which most can't be indexed.
# pyright: reportIndexIssue=false, reportOperatorIssue=false

import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax import rmsprop, zeros_for_missing


def test_zeros_have_the_shape_and_dtype_of_the_parameter() -> None:
    params = {"a": jnp.ones(2), "b": [jnp.ones((2, 3), jnp.bfloat16), None]}
    tx = zeros_for_missing()
    grads = {"a": jnp.array([1.0, 2.0]), "b": [None, None]}
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates["a"], [1.0, 2.0])
    filled = updates["b"][0]
    assert (filled.shape, filled.dtype) == ((2, 3), jnp.bfloat16)
    assert not filled.any()
    assert updates["b"][1] is None


def test_without_parameters_nothing_changes() -> None:
    tx = zeros_for_missing()
    grads = {"a": None, "b": 1.0}
    assert tx.update(grads, tx.init(grads))[0] == grads


def test_a_leaf_without_a_gradient_stays() -> None:
    tx = rmsprop(0.1, momentum=0.9, weight_decay=0.1)
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    opt_state = tx.init(params)
    updates, _ = tx.update({"a": jnp.ones(2), "b": None}, opt_state, params)
    stepped = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(stepped["b"], params["b"])
    assert np.all(stepped["a"] < 1)
