"""Masks and schedules that are Equinox modules: one is a tree, the other a function."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import accumulate_gradients, rmsprop


class _Layers(eqx.Module):
    """A model whose trees of booleans are callable too, with two arguments."""

    mlp: eqx.nn.MLP
    scale: Any

    def __call__(self, x: Any, y: Any) -> Any:
        return self.scale * self.mlp(x + y)


@pytest.mark.parametrize(
    ("inject", "kind"),
    [(False, bool), (True, bool), (False, np.array), (False, jnp.array)],
)
def test_a_mask_that_is_a_callable_model_is_a_tree(inject: bool, kind: Any) -> None:
    mlp = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    for model in (mlp, _Layers(mlp, jnp.ones(()))):
        params = eqx.filter(model, eqx.is_inexact_array)
        mask = jax.tree.map(lambda x: kind(x.ndim > 1), params)
        make = rmsprop
        if inject:
            make = optax.inject_hyperparams(rmsprop, static_args=("weight_decay_mask",))
        tx = make(0.1, weight_decay=0.5, weight_decay_mask=mask)
        theirs = optax.add_decayed_weights(-0.05, mask)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = tx.update(zeros, tx.init(params), params)
        expected, _ = theirs.update(zeros, theirs.init(params), params)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
        wrong = jax.tree.map(lambda x: x.ndim, params)
        with pytest.raises(TypeError, match=r"tree of booleans.*function of the param"):
            rmsprop(0.1, weight_decay=0.5, weight_decay_mask=_Layers(wrong, wrong))


class _Schedule(eqx.Module):
    """A schedule with a constant that is a leaf."""

    first: Any

    def __call__(self, count: Any) -> Any:
        return self.first / (count + 1)


@pytest.mark.parametrize("inject", [False, True])
def test_a_schedule_that_is_a_module_is_a_function(inject: bool) -> None:
    make = optax.inject_hyperparams(rmsprop) if inject else rmsprop
    schedule = _Schedule(jnp.array(0.5))
    tx = make(learning_rate=1.0, weight_decay=schedule)
    tx = accumulate_gradients(tx, lambda count: 1 + 0 * count)
    params, seen = jnp.array(1.0), []
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(jnp.array(0.0), state, params)
        seen.append(float(updates))
    np.testing.assert_allclose(seen, [-1 / 2, -1 / 4, -1 / 6], rtol=1e-6)
