import jax
import jax.numpy as jnp
import numpy as np
import optax

import rmsprop_optax as ro


def test_what_is_left_grows_by_what_was_dropped() -> None:
    tx = ro.cautious(optax.scale_by_sign())  # ascends: disagrees with everything
    grads = jnp.array([1.0, -2.0])
    np.testing.assert_array_equal(tx.update(grads, tx.init(grads))[0], [0.0, 0.0])
    tx = ro.cautious(optax.stateless(lambda g, p: jnp.array([-1.0, -1.0, -1.0, 0.0])))
    grads = jnp.array([1.0, -1.0, 2.0, 3.0])
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads))
    np.testing.assert_allclose(updates, [-2.0, 0.0, -2.0, 0.0], rtol=1e-6)


def test_few_survivors_grow_a_thousandfold_at_most() -> None:
    grads = -jnp.ones(4000).at[0].set(-1.0)
    tx = ro.cautious(optax.stateless(lambda g, p: jnp.full(4000, -1.0)))
    updates, _ = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose(updates[0], -1000.0, rtol=1e-6)
    assert float(jnp.abs(updates[1:]).max()) == 0.0


def test_the_state_is_the_inner_one_and_arguments_pass() -> None:
    def update_fn(
        updates: object, state: int, params: object = None, *, by: int
    ) -> tuple:
        del params
        return jax.tree.map(lambda g: -g * by, updates), state + 1

    inner = optax.GradientTransformationExtraArgs(lambda params: 0, update_fn)
    tx = ro.cautious(inner)
    grads = {"a": jnp.array(2.0), "b": None}
    updates, state = tx.update(grads, tx.init(grads), by=3)
    assert state == 1
    assert float(updates["a"]) == -6.0
    assert updates["b"] is None
