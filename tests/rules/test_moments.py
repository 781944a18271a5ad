"""Running means, bias correction and division by a root."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_optax.rules import (
    average,
    bias_correction,
    normalize,
    second_moment,
    variance,
)
from rmsprop_optax.rules._moments import abs_sq, safe_sqrt

DECAYS = [0.5, 0.9, 0.99, 0.999, 0.9999]
COUNTS = [1, 2, 3, 10, 100, 1000, 10_000, 100_000, 1_000_000]


def test_average_is_a_weighted_mean() -> None:
    assert average(jnp.asarray(4.0), jnp.asarray(8.0), 0.75) == 7.0
    assert average(jnp.asarray(4.0), jnp.asarray(8.0), 0.0) == 4.0
    assert average(jnp.asarray(4.0), jnp.asarray(8.0), 1.0) == 8.0


def test_second_moment_is_the_average_of_the_square() -> None:
    assert second_moment(jnp.asarray(-4.0), jnp.asarray(8.0), 0.75) == 10.0
    nu = second_moment(jnp.array([3 + 4j]), jnp.array([0.0]), 0.5)
    assert nu.dtype == jnp.float32
    np.testing.assert_array_equal(nu, [12.5])


@pytest.mark.parametrize("decay", DECAYS)
def test_is_one_minus_the_power(decay: float) -> None:
    expected = -np.expm1(np.array(COUNTS) * np.log(decay))
    result = bias_correction(decay, jnp.array(COUNTS))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("decay", DECAYS)
def test_of_a_float32_decay_is_exact_for_that_decay(decay: float) -> None:
    held = np.float32(decay)
    expected = -np.expm1(np.array(COUNTS) * np.log(np.float64(held)))
    result = bias_correction(jnp.asarray(held), jnp.array(COUNTS))
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_before_the_first_step_there_is_no_weight() -> None:
    for decay in (0.0, 0.9):
        assert bias_correction(decay, jnp.array(0)) == 0.0


def test_decay_zero_has_all_its_weight_at_once() -> None:
    np.testing.assert_array_equal(bias_correction(0.0, jnp.array([1, 5])), [1.0, 1.0])


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
        _, new = variance(g, jnp.asarray(0.0), jnp.asarray(nu), decay)
        return normalize(g, new, eps, eps_in_sqrt=eps_in_sqrt)

    root = np.sqrt(0.9 * nu + 1e-4) if eps_in_sqrt else np.sqrt(0.9 * nu) + 1e-4
    for step in (plain, centered):
        slopes = jax.grad(step, argnums=(0, 1, 2))(jnp.asarray(0.0), 0.9, 1e-4)
        np.testing.assert_allclose(slopes, [1 / root, 0.0, 0.0], rtol=1e-5)


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
