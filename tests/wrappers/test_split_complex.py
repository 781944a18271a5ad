import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro


def test_each_part_has_its_own_second_moment() -> None:
    tx = ro.split_complex(ro.scale_by_rms(0.75, eps=0.0))
    params = {"z": jnp.zeros(2, jnp.complex64), "x": jnp.zeros(1)}
    grads = {"z": jnp.array([3 - 0.5j, -1j]), "x": jnp.array([5.0])}
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["z"].imag, [-2, -2])
    assert float(updates["z"][0].real) == 2.0
    assert np.isnan(updates["z"][1].real)  # 0 / 0 without an epsilon
    np.testing.assert_array_equal(state.nu["z"].imag, [0.0625, 0.25])
    assert jax.tree.structure(state.nu) == jax.tree.structure(params)
    assert state.nu["x"].dtype == jnp.float32


def test_an_infinite_part_leaves_the_other_alone() -> None:
    tx = ro.split_complex(optax.identity())
    grads = jnp.array(complex(np.inf, 1.0), jnp.complex64)
    update, _ = tx.update(grads, tx.init(grads))
    assert update == complex(np.inf, 1.0)


def test_a_moment_without_a_gradient_stays_as_it_was() -> None:
    tx = ro.split_complex(optax.trace(0.5))
    params = {"a": jnp.array(1 + 1j), "b": jnp.array(2.0)}
    state = tx.init(params)
    for a in (jnp.array(1 + 2j), None, jnp.array(0j)):
        updates, state = tx.update({"a": a, "b": jnp.array(1.0)}, state, params)
    assert updates["a"] == 0.5 + 1j
    assert updates["b"] == 1.75


def test_missing_and_real_gradients_of_a_complex_parameter() -> None:
    tx = ro.dialects.torch(1.0, alpha=0.0, eps=1.0, momentum=0.5)
    params = {"a": jnp.array(1 + 1j), "b": jnp.array(2 + 0j), "c": jnp.array(3.0)}
    state = tx.init(params)
    grads = {"a": None, "b": jnp.array(3.0), "c": jnp.array(1.0)}
    updates, after = tx.update(grads, state, params)
    assert updates["a"] == 0
    assert updates["b"] == -0.75
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert float(optax.tree.get(after, "trace")["a"].real) == 0.0


def test_shared_and_split_moments_differ() -> None:
    grads = jnp.array(3 + 4j)
    shared, split = ro.scale_by_rms(0.0, eps=0.0), ro.scale_by_rms(0.0, eps=0.0)
    split = ro.split_complex(split)
    np.testing.assert_allclose(shared.update(grads, shared.init(grads))[0], 0.6 + 0.8j)
    np.testing.assert_allclose(split.update(grads, split.init(grads))[0], 1 + 1j)


def test_a_leaf_that_does_not_fit_is_named() -> None:
    tx = ro.dialects.torch()
    state = tx.init({"w": jnp.zeros(2, jnp.complex64)})
    with pytest.raises(ValueError, match="w"):
        tx.update({"w": jnp.zeros(3, jnp.complex64)}, state)


def test_parts_in_integers_are_no_complex_number() -> None:
    storage = ro.MomentStorage("int8", min_size=0)
    tx = ro.split_complex(ro.low_precision(optax.adam(0.1), storage))
    with pytest.raises(ValueError, match="put the wrapper that stores them so around"):
        tx.init(jnp.ones((2, 8), jnp.complex64))


def test_split_again_is_split_once() -> None:
    once = ro.split_complex(ro.scale_by_rms(0.75, eps=0.0))
    params = {"z": jnp.zeros(2, jnp.complex64)}
    grads = {"z": jnp.array([3 - 0.5j, 1 - 1j])}
    wanted, _ = once.update(grads, once.init(params), params)
    for tx in (ro.split_complex(once), ro.split_complex(optax.chain(once))):
        update, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_array_equal(update["z"], wanted["z"])
