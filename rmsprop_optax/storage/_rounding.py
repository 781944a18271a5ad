"""Stochastic rounding: to one of the two neighbors, right in expectation."""

import jax
import jax.numpy as jnp
import numpy as np

_ODD = 0x9E3779B1


def hash_bits(shape: tuple[int, ...], seed: jax.Array) -> jax.Array:
    """Uint32 bits for each position: a hash of the position and of a uint32 seed.

    The upper 24 bits are uniform, and independent between positions and seeds as far as a
    test can tell. They serve rounding and nothing else.
    """
    # `jax.random.bits` takes ten times the time of a whole step on a CPU.
    position = jnp.broadcast_to(seed, shape)
    for axis in range(len(shape)):
        spread = np.uint32(pow(_ODD, axis + 1, 2**32))
        position += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * spread
    return mix(position)


def next_seed(seed: jax.Array) -> jax.Array:
    """The seed of the next step."""
    mixed = mix(seed + jnp.uint32(_ODD))
    return mixed ^ (mixed >> 16)


def uniform(bits: jax.Array) -> jax.Array:
    """Float32 numbers in [0, 1), from the upper 24 bits."""
    return (bits >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2**-24)


def mix(x: jax.Array) -> jax.Array:
    """The bijection "lowbias32" of C. Wellons' hash-prospector, without its last line.

    That line mixes the lower bits, which rounding does not use.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    return (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)


def round_stochastically(x: jax.Array, dtype: jnp.dtype, bits: jax.Array) -> jax.Array:
    """``x`` (float32) in ``dtype``: one of its two neighbors, the nearer one more often.

    ``bits`` are random uint32. Numbers of ``dtype`` are exact, beyond the largest one
    rounding is to nearest, and NaN stays NaN.
    """
    if dtype == jnp.bfloat16:
        return _cut(x, bits)
    return _neighbour(x, dtype, uniform(bits))


def _cut(x: jax.Array, bits: jax.Array) -> jax.Array:
    """Adds random bits to the lower half of a float32, then keeps the upper half.

    The upper half is a bfloat16. With integers subnormal numbers are right too, which XLA
    flushes to 0.
    """
    pattern = jax.lax.bitcast_convert_type(x, jnp.uint32)
    magnitude = pattern & 0x7FFFFFFF
    inside = magnitude <= 0x7F7F0000  # the largest bfloat16
    rounded = pattern + jnp.where(inside, bits >> 16, 0x8000)
    quiet = pattern | 0x00400000
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
    pattern = jax.lax.bitcast_convert_type(nearest, width)
    sign = jnp.asarray(1 << (nearest.dtype.itemsize * 8 - 1), width)
    outwards = (error > 0) == (nearest > 0)
    stepped = jnp.where(outwards, pattern + 1, pattern - 1)
    smallest = jnp.where(error < 0, sign | 1, jnp.ones_like(sign))
    bits_of = jnp.where(nearest == 0, smallest, stepped)
    return jax.lax.bitcast_convert_type(bits_of, nearest.dtype)
