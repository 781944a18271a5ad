import jax
import jax.numpy as jnp
import numpy as np

import rmsprop_optax as ro


def test_the_sign_turns_and_the_dtype_stays() -> None:
    tx = ro.negate()
    grads = {
        "a": jnp.array([1.0, -jnp.inf, 0.0], jnp.bfloat16),
        "b": None,
        "c": jnp.array(1 - 2j),
    }
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads))
    np.testing.assert_array_equal(updates["a"].astype("float32"), [-1, np.inf, 0])
    assert updates["a"].dtype == jnp.bfloat16
    assert updates["b"] is None
    assert updates["c"] == -1 + 2j
