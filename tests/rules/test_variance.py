"""The variance recurrence is the weighted variance, whatever the gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_optax.rules import corrected_variance, lazy_variance, variance

STEPS = 12
_rounded = st.floats(-1e3, 1e3).map(lambda g: round(g, 6))
gradients = st.lists(_rounded, min_size=STEPS, max_size=STEPS)
decays = st.floats(0.0, 0.999)


def _recurrence(gs: Any, decay: Any, corrected: bool) -> tuple[jax.Array, jax.Array]:
    """Mean and variance after each gradient, in the dtype of the gradients."""
    rule = corrected_variance if corrected else variance

    def step(carry: Any, g: jax.Array) -> tuple[Any, Any]:
        count, mu, nu = carry
        beside = (count + 1,) if corrected else ()
        mu, nu = rule(g, mu, nu, decay, *beside)
        return (count + 1, mu, nu), (mu, nu)

    zero = jnp.zeros(gs.shape[1:], gs.dtype)
    start = (jnp.asarray(0), zero, jnp.zeros(zero.shape, zero.real.dtype))
    return jax.lax.scan(step, start, gs)[1]


_jitted = jax.jit(_recurrence, static_argnums=2)


def _direct(gs: np.ndarray, decay: float, corrected: bool) -> tuple[np.ndarray, ...]:
    """The same from the definition: weights, their mean, their variance."""
    t = len(gs)
    weights = (1 - decay) * decay ** np.arange(t - 1, -1, -1, dtype=np.float64)
    total = weights.sum()
    mean = (weights @ gs) / (total if corrected else 1)
    nu = weights @ np.abs(gs - mean) ** 2
    # Without correction the missing weight is on the zero that the mean started from.
    return mean, nu if corrected else nu + decay**t * np.abs(mean) ** 2


@pytest.mark.parametrize("corrected", [False, True])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(gs=gradients, decay=decays)
def test_is_the_weighted_variance(corrected: bool, gs: list[float], decay: float) -> None:
    array = np.array(gs)
    scale = np.abs(array).max()
    with jax.enable_x64(True):
        mus, nus = _jitted(jnp.asarray(array), jnp.asarray(decay), corrected)
    for t in range(1, STEPS + 1):
        mu, nu = _direct(array[:t], decay, corrected)
        np.testing.assert_allclose(mus[t - 1], mu, rtol=1e-9, atol=1e-12 * scale)
        np.testing.assert_allclose(nus[t - 1], nu, rtol=1e-9, atol=1e-12 * scale**2)


@pytest.mark.parametrize("corrected", [False, True])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    gs=st.lists(st.floats(-1e15, 1e15), min_size=STEPS, max_size=STEPS),
    decay=decays,
)
def test_is_never_negative(corrected: bool, gs: list[float], decay: float) -> None:
    array = jnp.array(gs, jnp.float32)
    _, nus = _jitted(array, jnp.float32(decay), corrected)
    assert nus.dtype == jnp.float32
    assert np.all(np.asarray(nus) >= 0)


@pytest.mark.parametrize("value", [-3.3, 1e-3, 1e6])
def test_of_a_constant_goes_to_zero(value: float) -> None:
    gs = jnp.full(500, value, jnp.float32)
    _, plain = _jitted(gs, jnp.float32(0.9), False)
    _, corrected = _jitted(gs, jnp.float32(0.9), True)
    assert plain[0] == pytest.approx(0.09 * value**2, rel=1e-5)
    assert plain[-1] <= 1e-12 * value**2
    assert np.all(np.asarray(corrected) <= 1e-12 * value**2)


@pytest.mark.parametrize("corrected", [False, True])
def test_decay_zero_forgets_everything(corrected: bool) -> None:
    mus, nus = _jitted(jnp.array([3.0, -2.0, 5.0]), jnp.float32(0.0), corrected)
    np.testing.assert_array_equal(mus, [3.0, -2.0, 5.0])
    np.testing.assert_array_equal(nus, [0.0, 0.0, 0.0])


def test_the_second_of_two_close_gradients_is_told_from_the_first() -> None:
    gs = np.float32([1000.0, 1000.001])
    _, nus = _jitted(jnp.asarray(gs), jnp.float32(0.9), True)
    _, nu = _direct(gs.astype(np.float64), 0.9, True)
    assert nus[0] == 0.0
    np.testing.assert_allclose(nus[1], nu, rtol=1e-5)


@pytest.mark.parametrize("decay", [1e-30, 1e-12, 1e-6, 1e-3])
def test_small_decays_do_not_amplify_rounding(decay: float) -> None:
    rng = np.random.default_rng(2)
    gs = rng.normal(size=STEPS).astype(np.float32)
    _, nus = _jitted(jnp.asarray(gs), jnp.float32(decay), False)
    _, nu = _direct(gs.astype(np.float64), decay, False)
    np.testing.assert_allclose(nus[-1], nu, rtol=1e-3, atol=1e-6)


def test_complex_gradients_have_a_real_variance() -> None:
    rng = np.random.default_rng(0)
    gs = rng.normal(size=STEPS) + 1j * rng.normal(size=STEPS)
    with jax.enable_x64(True):
        mus, nus = _jitted(jnp.asarray(gs), jnp.asarray(0.7), False)
    mu, nu = _direct(gs, 0.7, False)
    assert nus.dtype == jnp.float64
    np.testing.assert_allclose(mus[-1], mu, rtol=1e-12)
    np.testing.assert_allclose(nus[-1], nu, rtol=1e-12)


@pytest.mark.parametrize("steps", [[0], [0, 1, 2, 3], [0, 7], [3, 4, 30], [40]])
def test_of_a_row_with_fewer_values_than_steps(steps: list[int]) -> None:
    """The lazy formula: m and v of its own values, the bias correction of the clock."""
    decay, clock = 0.9, 41
    gs = np.random.default_rng(3).normal(loc=5.0, size=len(steps))
    mu = nu = jnp.asarray(0.0)
    m = v = 0.0
    for count, g in enumerate(gs, 1):
        mu, nu = corrected_variance(jnp.asarray(g), mu, nu, decay, jnp.asarray(count))
        m, v = decay * m + (1 - decay) * g, decay * v + (1 - decay) * g * g
    c = 1 - decay**clock
    args = decay, jnp.asarray(len(steps)), jnp.asarray(clock)
    expected = v / c - (m / c) ** 2
    np.testing.assert_allclose(lazy_variance(mu, nu, *args), expected, rtol=2e-5)
