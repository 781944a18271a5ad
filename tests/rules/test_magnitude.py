"""Squares and roots with finite derivatives."""

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax.rules._magnitude import abs_sq, safe_sqrt


def test_abs_sq_of_real_and_complex() -> None:
    assert abs_sq(jnp.asarray(-3.0)) == 9.0
    squared = abs_sq(jnp.asarray(3 - 4j))
    assert (squared, squared.dtype) == (25.0, jnp.float32)


def test_safe_sqrt_is_sqrt_and_its_slope_at_zero_is_zero() -> None:
    xs = jnp.array([0.0, 1e-30, 4.0, jnp.inf])
    np.testing.assert_array_equal(safe_sqrt(xs), np.sqrt(np.asarray(xs)))
    slopes = jax.vmap(jax.grad(safe_sqrt))(xs[::2])
    np.testing.assert_array_equal(slopes, [0.0, 0.25])


def test_safe_sqrt_of_nan_is_nan() -> None:
    assert np.isnan(safe_sqrt(jnp.asarray(jnp.nan)))


def test_the_slope_of_a_norm_of_squares_at_zero_is_zero() -> None:
    assert jax.grad(lambda x: safe_sqrt(abs_sq(x)))(0.0) == 0.0
