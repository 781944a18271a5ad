"""Norms against NumPy's in float64, in units in which squares fit float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_optax.rules import clip_by_norm, clipping_unit, norm


@jax.jit
def _norm(*xs: Any) -> Any:
    """In the unit of a bound of 2^-4 of the largest element."""
    top = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=1e-38) for x in xs]))
    unit = clipping_unit(jnp.where(jnp.isfinite(top), top, 1) / 16, jnp.dtype("float32"))
    return norm(list(xs), unit) / unit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_are_powers_of_two_near_the_bound(dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        limits = jnp.finfo(dtype)
        for exponent in range(limits.minexp, limits.maxexp, 7):
            bound = np.asarray(1.5 * 2.0**exponent, dtype)
            known = clipping_unit(float(bound), jnp.dtype(dtype))
            traced = jax.jit(lambda c: clipping_unit(c, jnp.dtype(dtype)))(bound)
            assert known == traced
            mantissa, power = np.frexp(np.asarray(known, np.float64))
            assert mantissa == 0.5
            wanted = -limits.maxexp * 9 // 32 - exponent
            assert power - 1 == max(wanted, -limits.maxexp * 5 // 8)


BOUNDS = 10.0 ** np.array([-10, -3, 0, 0.6, 10, 30, 38])
MAGNITUDES = 10.0 ** np.array([-38, -30, -20, -10, -3, 0, 3, 10, 18, 25, 37])


@pytest.mark.parametrize("kind", ["normal", "one large", "mixed", "zeros"])
def test_factors_are_those_of_float64(kind: str) -> None:
    """Up to 1.3e30 times the bound; beyond it they are 0."""
    rng = np.random.default_rng(0)
    draw = rng.normal(size=(4, 50))
    if kind == "one large":
        draw *= 1e-3
        draw[0, 3] = 1.0
    if kind == "mixed":
        draw *= np.where(rng.random((4, 50)) < 0.5, 1, 1e-20)
    if kind == "zeros":
        draw[1:] = 0

    def factor(g: Any, bound: Any) -> Any:
        unit = clipping_unit(bound, jnp.dtype("float32"))
        measured = norm(list(g), unit)
        return clip_by_norm(jnp.ones([]), measured, bound * unit)

    with np.errstate(over="ignore"):
        gradients = (draw * MAGNITUDES[:, None, None]).astype(np.float32)
    gradients = np.clip(gradients, -3e38, 3e38)
    bounds = BOUNDS.astype(np.float32)
    over_bounds = jax.vmap(factor, in_axes=(None, 0))
    found = jax.jit(jax.vmap(over_bounds, in_axes=(0, None)))(gradients, bounds)
    norms = np.sqrt(np.sum(gradients.astype(np.float64) ** 2, axis=(1, 2)))[:, None]
    exact = bounds.astype(np.float64)
    expected = np.minimum(1, exact / norms)
    inside = np.broadcast_to(norms < 1.2e30 * exact, expected.shape)
    np.testing.assert_allclose(found[inside], expected[inside], rtol=3e-6)
    # In units of no less than 2^-80 the largest numbers have a norm.
    beyond = (norms > 1.4e30 * exact) & (exact < 2.0**40)
    assert not np.any(np.asarray(found)[beyond])


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
def test_compiled_is_as_eager(shape: tuple[int, ...]) -> None:
    x = np.full(shape, 3.0, np.float32)
    expected = 3 * np.sqrt(x.size)
    np.testing.assert_allclose(norm([jnp.asarray(x)]), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(norm)([x]), expected, rtol=1e-6)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_derivatives_are_finite(transform: Any) -> None:
    gradient = transform(jax.grad(lambda x: norm([x])))
    rows = jnp.array([[0.0, 0.0], [3.0, 4.0], [3e15, 4e15], [3e-15, 4e-15]])
    slopes = gradient(rows) if transform is jax.vmap else [gradient(r) for r in rows]
    np.testing.assert_array_equal(slopes[0], [0.0, 0.0])
    np.testing.assert_allclose(slopes[1], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(slopes[2], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(slopes[3], [0.6, 0.8], rtol=1e-6)
