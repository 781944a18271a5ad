"""Random rounding to narrow dtypes: one of two neighbors, right on average."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rmsprop_optax.storage._rounding import round_stochastically

DTYPES = ["bfloat16", "float16", "float8_e5m2", "float8_e4m3fn"]
NO_NEGATIVE_ZERO = ["float8_e4m3fnuz", "float8_e5m2fnuz"]
rounded = jax.jit(round_stochastically, static_argnums=1)


def draw(x: float, dtype: str, count: int = 20_000) -> np.ndarray:
    bits = jax.random.bits(jax.random.key(1), (count,), jnp.uint32)
    got = rounded(jnp.full(count, x, jnp.float32), jnp.dtype(dtype), bits)
    assert got.dtype == dtype
    return np.asarray(got).astype(np.float64)


@pytest.mark.parametrize("dtype", [*DTYPES, *NO_NEGATIVE_ZERO])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("x", [1.3, 0.999, 1e-3, 3.0e-6, 200.3, 1 + 2**-12])
def test_one_of_two_neighbours_right_on_average(dtype: str, x: float, sign: int) -> None:
    got = draw(sign * x, dtype)
    exact = float(np.float32(sign * x))
    values = np.unique(got)
    assert len(values) <= 2
    assert values.min() <= exact <= values.max()
    if len(values) == 2:  # nothing of the dtype is between them
        middle = np.float64(values.mean()).astype(np.dtype(dtype)).astype(np.float64)
        assert middle in values
    off = abs(got.mean() - exact)
    assert off <= 5 * got.std() / np.sqrt(len(got)) + 1e-6 * abs(exact)


@pytest.mark.parametrize("dtype", [*DTYPES, *NO_NEGATIVE_ZERO])
def test_what_the_dtype_has_is_exact(dtype: str) -> None:
    info = ml_dtypes.finfo(dtype)
    held = [0.0, 1.0, -1.5, float(info.max), -float(info.max), float(info.tiny)]
    if dtype != "bfloat16":
        held.append(float(info.smallest_subnormal))
    for x in held:
        np.testing.assert_array_equal(draw(x, dtype, 100), np.full(100, x))
    assert np.all(np.signbit(draw(-0.0, dtype, 4)) == (dtype in DTYPES))


# Of bfloat16 they are numbers that XLA on CPU takes for 0.
@pytest.mark.parametrize("dtype", [*DTYPES[1:], *NO_NEGATIVE_ZERO])
def test_negative_numbers_below_the_smallest(dtype: str) -> None:
    smallest = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    got = draw(-0.7 * smallest, dtype)
    assert set(got) == {0.0, -smallest}
    assert abs(got.mean() / smallest + 0.7) < 0.02


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_ends_and_what_is_no_number(dtype: str) -> None:
    assert np.all(np.isnan(draw(np.nan, dtype, 100)))
    assert np.all(draw(np.inf, dtype, 100) == np.inf)
    assert np.all(draw(-np.inf, dtype, 100) == -np.inf)
    largest = float(ml_dtypes.finfo(dtype).max)
    assert np.all(draw(largest * (1 + 2**-12), dtype, 100) == largest)
    beyond = 3.4028e38 if dtype == "bfloat16" else largest * 1.5
    assert np.all(draw(-beyond, dtype, 100) == -np.inf)


def test_subnormal_bfloat16() -> None:
    # As bits: XLA on CPU takes such numbers for 0 when it computes with them.
    held = jax.lax.bitcast_convert_type(
        jnp.full(20_000, 0x00018000, jnp.uint32), "float32"
    )
    bits = jax.random.bits(jax.random.key(1), (20_000,), jnp.uint32)
    got = rounded(held, jnp.dtype("bfloat16"), bits)
    as_integers = np.asarray(jax.lax.bitcast_convert_type(got, jnp.uint16))
    assert set(as_integers) == {1, 2}
    assert abs(as_integers.mean() - 1.5) < 5 * 0.5 / np.sqrt(20_000)
