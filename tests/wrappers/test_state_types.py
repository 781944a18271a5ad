"""A wrapper keeps the types of a state, also where its transformation does not."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import sparse

WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "lazy": sparse.lazy,
    "cautious": ro.cautious,
    "split_complex": ro.split_complex,
    "skip_nonfinite": ro.skip_nonfinite,
    "dynamic_loss_scale": ro.dynamic_loss_scale,
    "accumulate_gradients": lambda tx: ro.accumulate_gradients(tx, 2),
    "in_float32": ro.in_float32,
}
wrappers = pytest.mark.parametrize("name", WRAPPERS)


@wrappers
def test_float32_gradients_of_bfloat16_parameters(name: str) -> None:
    """Optax's moments begin in the dtype of the parameters."""
    tx, params = WRAPPERS[name](optax.adam(0.1)), jnp.ones(2, jnp.bfloat16)
    state = tx.init(params)
    types = jax.tree.map(jax.typeof, state)
    for _ in range(3):
        _, state = tx.update(jnp.ones(2), state, params)
        assert jax.tree.map(jax.typeof, state) == types


def test_float32_rows_of_a_bfloat16_table() -> None:
    tx, table = sparse.lazy(optax.adam(0.1)), jnp.ones((4, 2), jnp.bfloat16)
    rows = sparse.RowSlices(jnp.array([1, 2]), jnp.ones((2, 2)), (4, 2))
    state = tx.init(table)
    types = jax.tree.map(jax.typeof, state)
    for _ in range(3):
        _, state = tx.update(rows, state, table)
        assert jax.tree.map(jax.typeof, state) == types


class _Calls(NamedTuple):
    calls: Any


@wrappers
def test_a_number_of_python_in_the_state(name: str) -> None:
    counting = optax.GradientTransformation(
        lambda params: _Calls(0),
        lambda g, state, params=None: (g, _Calls(state.calls + 1)),
    )
    tx, params = WRAPPERS[name](counting), jnp.ones(2)
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update(params, state, params)
    calls = optax.tree.get(state, "calls")
    assert calls == (2 if name == "accumulate_gradients" else 4)
