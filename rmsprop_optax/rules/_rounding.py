"""Rounding to a narrow dtype, up or down at random, right in expectation."""

import jax
import jax.numpy as jnp


def round_randomly(x: jax.Array, dtype: jnp.dtype, bits: jax.Array) -> jax.Array:
    """``x`` (float32) in ``dtype``: one of its neighbours there, as likely as it is near.

    ``bits`` are uint32 and random. What ``dtype`` has is exact; beyond its largest number
    it is what rounding to the nearest makes of it; NaN stays NaN.
    """
    if dtype == jnp.bfloat16:
        return _cut(x, bits)
    return _neighbour(x, dtype, (bits >> 8).astype(jnp.int32).astype(x.dtype) * 2**-24)


def _cut(x: jax.Array, bits: jax.Array) -> jax.Array:
    """A bfloat16 is the upper half of a float32: the lower half is added to, then cut.

    Integers throughout, so that subnormal numbers are right where XLA takes them for 0.
    """
    held = jax.lax.bitcast_convert_type(x, jnp.uint32)
    magnitude = held & 0x7FFFFFFF
    inside = magnitude <= 0x7F7F0000  # the largest bfloat16
    rounded = held + jnp.where(inside, bits >> 16, 0x8000)
    quiet = held | 0x00400000
    upper = jnp.where(magnitude > 0x7F800000, quiet, rounded) >> 16
    return jax.lax.bitcast_convert_type(upper.astype(jnp.uint16), jnp.bfloat16)


def _neighbour(x: jax.Array, dtype: jnp.dtype, chance: jax.Array) -> jax.Array:
    nearest = x.astype(dtype)
    error = x - nearest.astype(x.dtype)
    other = _towards(nearest, error)
    gap = other.astype(x.dtype) - nearest.astype(x.dtype)
    # A gap that is infinite or NaN is the end of the dtype: nothing is beyond it.
    return jnp.where(chance * jnp.abs(gap) < jnp.abs(error), other, nearest)


def _towards(nearest: jax.Array, error: jax.Array) -> jax.Array:
    """The next number of the dtype in the direction of the error."""
    width = jnp.dtype(f"uint{nearest.dtype.itemsize * 8}")
    held = jax.lax.bitcast_convert_type(nearest, width)
    sign = jnp.asarray(1 << (nearest.dtype.itemsize * 8 - 1), width)
    outwards = (error > 0) == (nearest > 0)
    stepped = jnp.where(outwards, held + 1, held - 1)
    smallest = jnp.where(error < 0, sign | 1, jnp.ones_like(sign))
    made = jnp.where(nearest == 0, smallest, stepped)
    return jax.lax.bitcast_convert_type(made, nearest.dtype)
