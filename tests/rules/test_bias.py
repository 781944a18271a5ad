"""The weight of a running mean against float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from rmsprop_optax.rules import bias_correction

DECAYS = [0.5, 0.9, 0.99, 0.999, 0.9999]
COUNTS = [1, 2, 3, 10, 100, 1000, 10_000, 100_000, 1_000_000]


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
