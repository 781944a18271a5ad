"""Norms against NumPy's in float64, where squares fit float32 and where they don't."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_optax.rules import norm

_norm = jax.jit(lambda *xs: norm(list(xs)))
mantissas = st.lists(st.floats(-9.0, 9.0), min_size=4, max_size=4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(mantissa=mantissas, exponent=st.integers(-30, 30))
def test_is_the_norm_of_float64(mantissa: list[float], exponent: int) -> None:
    x = np.array(mantissa, np.float32) * np.float32(10.0**exponent)
    expected = np.linalg.norm(x.astype(np.float64))
    np.testing.assert_allclose(_norm(x), expected, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("exponent", [-35, -30, -18, 0, 18, 19, 20, 30, 37])
def test_of_complex_values_counts_both_parts(exponent: int) -> None:
    x = np.array([3 + 4j, -1 + 2j], np.complex64) * np.float32(10.0**exponent)
    expected = np.linalg.norm(x.astype(np.complex128))
    result = _norm(x)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_of_several_arrays_is_the_norm_of_all_values() -> None:
    assert _norm(np.float32([[3e20, 0.0]]), np.float32(4e20)) == pytest.approx(5e20)
    assert _norm(np.float32([[3.0, 0.0]]), np.float32(4.0)) == 5.0


def test_the_largest_float_has_a_norm() -> None:
    largest = np.finfo(np.float32).max
    np.testing.assert_allclose(_norm(np.float32([largest])), largest, rtol=1e-6)


def test_non_finite_values() -> None:
    for dtype in (np.float32, np.complex64):
        assert np.isnan(_norm(np.array([1.0, np.nan], dtype)))
        assert np.isnan(_norm(np.array([np.inf, np.nan], dtype)))
        assert np.isposinf(_norm(np.array([1.0, -np.inf], dtype)))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2, 3), (0,)])
@pytest.mark.parametrize("value", [1e-30, 1.0, 1e30])
def test_compiled_is_as_eager(shape: tuple[int, ...], value: float) -> None:
    x = np.full(shape, value, np.float32)
    expected = value * np.sqrt(x.size)
    np.testing.assert_allclose(norm([jnp.asarray(x)]), expected, rtol=1e-6)
    np.testing.assert_allclose(_norm(x), expected, rtol=1e-6)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_derivatives_are_finite(transform: Any) -> None:
    gradient = transform(jax.grad(lambda x: norm([x])))
    rows = jnp.array([[0.0, 0.0], [3.0, 4.0], [3e25, 4e25], [3e-25, 4e-25]])
    slopes = gradient(rows) if transform is jax.vmap else [gradient(r) for r in rows]
    np.testing.assert_array_equal(slopes[0], [0.0, 0.0])
    np.testing.assert_allclose(slopes[1], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(slopes[2], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(slopes[3], [0.6, 0.8], rtol=1e-6)
