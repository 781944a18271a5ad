"""From mean square to variance and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rmsprop_optax.interchange._slots import mean_square, variance


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    mean=hnp.arrays(np.float32, 8, elements=st.floats(-(2.0**40), 2.0**40, width=32)),
    spread=hnp.arrays(np.float32, 8, elements=st.floats(0, 2.0**80, width=32)),
)
def test_the_mean_square_comes_back_bit_by_bit(
    mean: np.ndarray, spread: np.ndarray
) -> None:
    """For every v >= |m|^2 that float32 holds."""
    v = (mean.astype(np.float64) ** 2 + spread).astype(np.float32)
    v = np.where(v.astype(np.float64) < mean.astype(np.float64) ** 2, mean_up(v), v)
    w = variance(v, mean)
    assert (w >= 0).all()
    np.testing.assert_array_equal(mean_square(w, mean), v)


def mean_up(v: np.ndarray) -> np.ndarray:
    return np.nextafter(v, np.float32(np.inf))


def test_a_variance_is_what_is_left() -> None:
    v, m = np.float32([4.0, 1.0, 1.0]), np.float32([1.0, 1.0, 2.0])
    np.testing.assert_array_equal(variance(v, m), np.float32([3.0, 0.0, 0.0]))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_parts_of_a_complex_parameter_are_apart(dtype: type) -> None:
    v, m = np.array([5 + 10j], dtype), np.array([2 - 3j], dtype)
    w = variance(v, m)
    assert w[0] == 1 + 1j
    assert mean_square(w, m)[0] == v[0]
    assert w.dtype == dtype


def test_a_moment_shared_by_both_parts() -> None:
    w = variance(np.float32([30.0]), np.complex64([3 - 4j]))
    assert w.tolist() == [5.0]
    assert mean_square(w, np.complex64([3 - 4j])).tolist() == [30.0]
