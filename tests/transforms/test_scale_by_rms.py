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

# Decay, epsilon and initial scale are numbers of one program, the two flags are not.
NUMBERS = list(itertools.product([0.5, 0.9], [1e-8, 1e-3], [0.0, 1.0]))
FLAGS = list(itertools.product([True, False], [True, False]))


def updates_of(make: Any, flags: tuple[bool, bool], gs: Any) -> Any:
    """For each row of NUMBERS the update of each gradient, in one compiled scan."""

    def run(numbers: jax.Array) -> Any:
        tx = make(*numbers, *flags)

        def step(state: Any, g: Any) -> tuple[Any, Any]:
            updates, state = tx.update(g, state)
            return state, updates

        return jax.lax.scan(step, tx.init(gs[0]), gs)[1]

    return jax.jit(jax.vmap(run))(jnp.array(NUMBERS))


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_is_optax(dtype: Any, flags: tuple[bool, bool]) -> None:
    rng = np.random.default_rng(0)
    gs = rng.normal(size=(15, 4))
    if dtype is np.complex64:
        gs = gs + 1j * rng.normal(size=(15, 4))
    gs = jnp.asarray(gs, dtype)
    ours, theirs = (
        updates_of(make, flags, gs) for make in (scale_by_rms, optax.scale_by_rms)
    )
    for numbers, mine, expected in zip(NUMBERS, ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=2e-6, err_msg=str(numbers))


def test_the_state_is_nu_and_a_count_only_where_it_is_read() -> None:
    for numbers, flags in itertools.product(NUMBERS, FLAGS):
        state = scale_by_rms(*numbers, *flags).init(jnp.ones(2))
        if flags[1]:
            assert state._fields == ("count", "nu")
        else:
            assert isinstance(state, optax.ScaleByRmsState)
        np.testing.assert_array_equal(state.nu, np.full(2, numbers[2]))
        np.testing.assert_array_equal(optax.tree.get(state, "nu"), state.nu)


def test_a_missing_gradient_leaves_its_moment() -> None:
    tx = scale_by_rms(0.5)
    state = tx.init({"a": jnp.ones(2), "b": jnp.ones(2)})
    _, state = tx.update({"a": jnp.ones(2), "b": jnp.ones(2)}, state)
    updates, state = tx.update({"a": jnp.ones(2), "b": None}, state)
    assert updates["b"] is None
    np.testing.assert_array_equal(state.nu["a"], [0.75, 0.75])
    np.testing.assert_array_equal(state.nu["b"], [0.5, 0.5])
