"""Clipping: what fits is untouched to the bit, the rest is on the bound."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_optax.rules import clip_by_norm, clip_by_value, clipping_unit, norm

values = st.lists(st.floats(-1e20, 1e20), min_size=3, max_size=3)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(values=values, bound=st.floats(0.5, 1e10))
def test_the_norm_is_bounded(values: list[float], bound: float) -> None:
    g = jnp.array(values, jnp.float32)
    unit = clipping_unit(bound, g.dtype)
    measured = norm([g], unit)
    clipped = clip_by_norm(g, measured, bound * unit)
    if measured <= bound * unit:
        np.testing.assert_array_equal(clipped, g)
    else:
        length = np.linalg.norm(np.asarray(clipped, np.float64))
        assert length == pytest.approx(bound, rel=1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(values=values, bound=st.floats(0.5, 1e10))
def test_values_are_bounded(values: list[float], bound: float) -> None:
    g = np.array(values, np.float32)
    np.testing.assert_array_equal(clip_by_value(g, bound), np.clip(g, -bound, bound))


def test_both_parts_of_a_complex_value_are_bounded() -> None:
    clipped = clip_by_value(jnp.array([3 - 0.5j, -0.25 + 9j]), 1.0)
    np.testing.assert_array_equal(clipped, np.array([1 - 0.5j, -0.25 + 1j]))


def test_an_unknown_norm_makes_everything_nan() -> None:
    clipped = clip_by_norm(jnp.array([1.0, 2.0]), jnp.asarray(jnp.nan), jnp.ones([]))
    assert np.isnan(np.asarray(clipped)).all()


def test_a_zero_gradient_stays_zero() -> None:
    g = jnp.zeros(3)
    np.testing.assert_array_equal(clip_by_norm(g, norm([g]), jnp.ones([])), np.zeros(3))
