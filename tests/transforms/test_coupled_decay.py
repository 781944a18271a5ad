import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmsprop_optax as ro


def test_the_penalty_is_part_of_what_is_normalized() -> None:
    tx = ro.dialects.torch(1.0, alpha=0.0, eps=0.0, weight_decay=0.5)
    params = jnp.array([4.0, -4.0])
    updates, _ = tx.update(jnp.zeros(2), tx.init(params), params)
    np.testing.assert_array_equal(updates, [-1.0, 1.0])


def test_the_penalty_of_a_bfloat16_parameter_is_not_rounded_first() -> None:
    tx = ro.add_decayed_weights(0.01)
    params = jnp.array(1.0078125, jnp.bfloat16)
    update, _ = tx.update(jnp.array(1.0, jnp.float32), tx.init(params), params)
    np.testing.assert_allclose(update, 1 + 0.01 * 1.0078125, rtol=1e-7)


def test_a_missing_gradient_stays_missing_and_complex_works() -> None:
    tx = ro.add_decayed_weights(jnp.array(0.5))
    params = {"a": jnp.array(2.0 - 4.0j), "b": jnp.array(1.0)}
    grads = {"a": jnp.array(1j), "b": None}
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    assert updates["a"] == 1 - 1j
    assert updates["b"] is None


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`weight_decay` must be a finite number"):
        ro.add_decayed_weights(-1.0)
    with pytest.raises(ValueError, match="`add_decayed_weights` needs the parameters"):
        ro.add_decayed_weights(0.1).update(jnp.ones(2), ro.negate().init(None))
