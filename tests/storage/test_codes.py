"""Block codes: how near, what is never lost, and what they stand for on average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_optax.storage import _codes as codes
from rmsprop_optax.storage._blocks import largest

UNSIGNED, SIGNED = jnp.dtype("uint8"), jnp.dtype("int8")
# With g between 1e-30 and 1e30, g² between what underflows and what overflows.
magnitudes = st.one_of(st.just(0.0), st.floats(-75, 38.5).map(lambda e: 10.0**e))


def there_and_back(x: jax.Array, dtype: jnp.dtype, chance: float | None) -> jax.Array:
    chances = None if chance is None else jnp.full(x.shape, chance, x.dtype)
    top = largest(codes.magnitude(x, dtype), 1)
    new = codes.encode(x, codes.unit_of(top, dtype), dtype, chances)
    return codes.decode(new, codes.scale_of(top, dtype))


compiled = jax.jit(there_and_back, static_argnums=(1, 2))


@pytest.mark.parametrize("chance", [None, 0.0, 0.5, 0.999])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(magnitudes, min_size=8, max_size=8), st.data())
def test_no_error_is_larger_than_a_code(
    chance: float | None, values: list[float], data: st.DataObject
) -> None:
    with np.errstate(over="ignore", under="ignore"):
        x = np.array(values, np.float32)
    finite = np.minimum(x, np.finfo(np.float32).max)
    finite[finite < np.finfo(np.float32).tiny] = 0  # XLA on CPU has no smaller numbers
    got = np.asarray(compiled(jnp.array(x), UNSIGNED, chance), np.float64)
    step = max(np.sqrt(np.float64(finite.max())) / 255, 1.09e-19)
    assert np.all(np.isfinite(got))
    assert np.all((got > 0) == (finite > 0))
    error = np.abs(np.sqrt(got) - np.sqrt(finite.astype(np.float64)))
    at_most = np.where(np.sqrt(finite) > step, 0.501 if chance is None else 1.001, 1.001)
    assert np.all(error <= at_most * step)
    signs = np.array(
        data.draw(st.lists(st.sampled_from([-1, 1]), min_size=8, max_size=8))
    )
    signed = np.asarray(compiled(jnp.array(x * signs), SIGNED, chance), np.float64)
    step = max(np.sqrt(np.float64(finite.max())) / 127, 1.09e-19)
    error = np.abs(np.sqrt(np.abs(signed)) - np.sqrt(finite.astype(np.float64)))
    assert np.all(error <= step * 1.001)
    assert np.all(signed * signs >= 0)


@pytest.mark.parametrize("dtype", [UNSIGNED, SIGNED])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 64, 125])
def test_the_largest_of_a_block_is_kept_as_it_is(dtype: jnp.dtype, size: int) -> None:
    x = jnp.array(np.random.default_rng(size).gamma(0.3, size=(5, size)), jnp.float32)
    got = compiled(x, dtype, 0.5)
    np.testing.assert_allclose(got.max(axis=1), x.max(axis=1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [UNSIGNED, SIGNED])
def test_it_stands_for_the_number_on_average(dtype: jnp.dtype) -> None:
    x = jnp.array([1.0, 0.37, 0.01, 4e-5, 1e-6 if dtype == SIGNED else 0.5, 0.0])
    draws = 40_000
    chance = jax.random.uniform(jax.random.key(0), (draws, 6))
    top = jnp.max(x)
    got = codes.encode(x, codes.unit_of(top, dtype), dtype, chance)
    got = codes.decode(got, codes.scale_of(top, dtype))
    got = np.asarray(got, np.float64)
    off = np.abs(got.mean(axis=0) - x)
    assert np.all(off <= 5 * got.std(axis=0) / np.sqrt(draws) + 1e-6 * np.asarray(x))
    assert got.std(axis=0)[1] > 0


def test_what_is_not_a_number() -> None:
    x = jnp.array([[1.0, jnp.nan, 2.0], [1.0, jnp.inf, 0.0], [1.0, 2.0, 0.0]])
    got = np.asarray(compiled(x, UNSIGNED, None))
    assert np.all(np.isnan(got[0]))
    # Infinity counts as the largest number, beside which 1 is the smallest code.
    np.testing.assert_allclose(got[1], [3.4e38 / 255**2, 3.4e38, 0], rtol=2e-3)
    np.testing.assert_allclose(got[2], [1, 2, 0], rtol=5e-3)


def test_float64() -> None:
    with jax.enable_x64(True):
        x = jnp.array([1e300, 1e297, 1e-300, 0.0], jnp.float64)
        got = there_and_back(x, UNSIGNED, None)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, [1e300, 1e297, 1e300 / 255**2, 0], rtol=0.07)
