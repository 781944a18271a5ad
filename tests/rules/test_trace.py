"""Momentum: the closed form of the decaying sum."""

import jax.numpy as jnp
import numpy as np
import pytest

from rmsprop_optax.rules import trace


@pytest.mark.parametrize("nesterov", [False, True])
def test_is_the_decaying_sum(nesterov: bool) -> None:
    gs = [1.0, -2.0, 0.5, 3.0]
    b = jnp.asarray(0.0)
    for t, g in enumerate(gs):
        update, b = trace(jnp.asarray(g), b, 0.5, nesterov=nesterov)
        total = sum(0.5 ** (t - i) * gs[i] for i in range(t + 1))
        assert b == total
        assert update == (g + 0.5 * total if nesterov else total)


def test_decay_zero_passes_the_update_on() -> None:
    g, b = jnp.array([1.5, -2.0]), jnp.array([9.0, 9.0])
    for nesterov in (False, True):
        update, new = trace(g, b, 0.0, nesterov=nesterov)
        np.testing.assert_array_equal(update, g)
        np.testing.assert_array_equal(new, g)
