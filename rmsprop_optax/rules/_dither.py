"""Random bits that cost as little as the rounding that they are for."""

import jax
import jax.numpy as jnp
import numpy as np

_ODD = 0x9E3779B1


def dither(shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """Uint32 bits for each position, a hash of it and of a uint32 key.

    `jax.random.bits` is ten times the time of a whole step on a CPU. The upper
    24 bits of this have the quality that rounding needs: uniform, and independent between
    positions and keys as far as a test can tell. They are for nothing else.
    """
    position = jnp.broadcast_to(key, shape)
    for axis in range(len(shape)):
        spread = np.uint32(pow(_ODD, axis + 1, 2**32))
        position += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * spread
    return _mix(position)


def next_key(key: jax.Array) -> jax.Array:
    """The key of the next step."""
    mixed = _mix(key + jnp.uint32(_ODD))
    return mixed ^ (mixed >> 16)


def unit(bits: jax.Array) -> jax.Array:
    """Float32 numbers in [0, 1), of 24 of the bits."""
    return (bits >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2**-24)


def _mix(x: jax.Array) -> jax.Array:
    """The bijection "lowbias32" of C. Wellons' hash-prospector, without its last line.

    That one mends the lower bits; roundings use the upper ones.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    return (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
