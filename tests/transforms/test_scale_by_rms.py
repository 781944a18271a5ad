"""`scale_by_rms` is `optax.scale_by_rms`, for all of its arguments."""

# Optax's trees are typed as unions of which most can't be indexed.
# pyright: reportIndexIssue=false, reportOperatorIssue=false

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import scale_by_rms

ARGUMENTS = list(
    itertools.product([0.5, 0.9], [1e-8, 1e-3], [0.0, 1.0], [True, False], [True, False])
)


def updates_of(tx: optax.GradientTransformation, gs: Any) -> Any:
    """The update of each gradient, in one compiled scan."""

    def step(state: Any, g: Any) -> tuple[Any, Any]:
        updates, state = tx.update(g, state)
        return state, updates

    first = jax.tree.map(lambda x: x[0], gs)
    return jax.jit(lambda: jax.lax.scan(step, tx.init(first), gs)[1])()


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_is_optax(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    gs = rng.normal(size=(15, 4))
    if dtype is np.complex64:
        gs = gs + 1j * rng.normal(size=(15, 4))
    gs = jnp.asarray(gs, dtype)
    for arguments in ARGUMENTS if dtype is np.float32 else ARGUMENTS[::5]:
        np.testing.assert_allclose(
            updates_of(scale_by_rms(*arguments), gs),
            updates_of(optax.scale_by_rms(*arguments), gs),
            rtol=2e-6,
            err_msg=str(arguments),
        )


def test_the_state_is_nu_and_a_count_only_where_it_is_read() -> None:
    for arguments in ARGUMENTS:
        state = scale_by_rms(*arguments).init(jnp.ones(2))
        if arguments[4]:
            assert state._fields == ("count", "nu")
        else:
            assert isinstance(state, optax.ScaleByRmsState)
        np.testing.assert_array_equal(state.nu, np.full(2, arguments[2]))
        np.testing.assert_array_equal(optax.tree.get(state, "nu"), state.nu)


def test_a_missing_gradient_leaves_its_moment() -> None:
    tx = scale_by_rms(0.5)
    state = tx.init({"a": jnp.ones(2), "b": jnp.ones(2)})
    _, state = tx.update({"a": jnp.ones(2), "b": jnp.ones(2)}, state)
    updates, state = tx.update({"a": jnp.ones(2), "b": None}, state)
    assert updates["b"] is None
    np.testing.assert_array_equal(state.nu["a"], [0.75, 0.75])
    np.testing.assert_array_equal(state.nu["b"], [0.5, 0.5])
