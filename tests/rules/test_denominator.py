"""Division by a root: the numbers, and their derivatives at a zero gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_optax.rules import normalize, second_moment, variance


@settings(max_examples=40, deadline=None, derandomize=True)
@given(g=st.floats(-1e3, 1e3), nu=st.floats(0, 1e6), eps=st.floats(1e-10, 1.0))
def test_is_the_formula(g: float, nu: float, eps: float) -> None:
    held = np.array([g, nu, eps], np.float32)
    wide = held.astype(np.float64)
    arrays = [jnp.asarray(x) for x in held]
    inside = normalize(*arrays, eps_in_sqrt=True)
    outside = normalize(*arrays, eps_in_sqrt=False)
    expected = (
        wide[0] / np.sqrt(wide[1] + wide[2]),
        wide[0] / (np.sqrt(wide[1]) + wide[2]),
    )
    # The square root of a subnormal number is not told from that of zero.
    np.testing.assert_allclose(inside, expected[0], rtol=1e-5, atol=1e-30)
    if wide[1] == 0 or wide[1] > 1e-36:
        np.testing.assert_allclose(outside, expected[1], rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
@pytest.mark.parametrize("nu", [0.0, 4.0])
def test_meta_gradients_at_a_zero_gradient(eps_in_sqrt: bool, nu: float) -> None:
    def plain(g: jax.Array, decay: float, eps: float) -> jax.Array:
        return normalize(
            g, second_moment(g, jnp.asarray(nu), decay), eps, eps_in_sqrt=eps_in_sqrt
        )

    def centered(g: jax.Array, decay: float, eps: float) -> jax.Array:
        _, new = variance(g, jnp.asarray(0.0), jnp.asarray(nu), decay, 1 - decay, decay)
        return normalize(g, new, eps, eps_in_sqrt=eps_in_sqrt)

    root = np.sqrt(0.9 * nu + 1e-4) if eps_in_sqrt else np.sqrt(0.9 * nu) + 1e-4
    for step in (plain, centered):
        slopes = jax.grad(step, argnums=(0, 1, 2))(jnp.asarray(0.0), 0.9, 1e-4)
        np.testing.assert_allclose(slopes, [1 / root, 0.0, 0.0], rtol=1e-5)
