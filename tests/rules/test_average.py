"""The moving average and the mean square."""

import jax.numpy as jnp
import numpy as np

from rmsprop_optax.rules import average, second_moment


def test_average_is_a_weighted_mean() -> None:
    assert average(jnp.asarray(4.0), jnp.asarray(8.0), 0.75) == 7.0
    assert average(jnp.asarray(4.0), jnp.asarray(8.0), 0.0) == 4.0
    assert average(jnp.asarray(4.0), jnp.asarray(8.0), 1.0) == 8.0


def test_second_moment_is_the_average_of_the_square() -> None:
    assert second_moment(jnp.asarray(-4.0), jnp.asarray(8.0), 0.75) == 10.0
    nu = second_moment(jnp.array([3 + 4j]), jnp.array([0.0]), 0.5)
    assert nu.dtype == jnp.float32
    np.testing.assert_array_equal(nu, [12.5])
