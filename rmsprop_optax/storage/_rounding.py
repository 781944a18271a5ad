"""Stochastic rounding: to one of the two neighbors, right in expectation."""

from functools import partial
from typing import Any

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
    #
    # XLA for TPU joins the loops of two arrays that read the same numbers of an axis, and
    # needs the gradients of both at once then: so there these depend on the seed too.
    return jax.lax.platform_dependent(
        seed,
        tpu=lambda seed: _hash(shape, [seed >> 16, seed - (seed >> 16)]),
        default=lambda seed: _hash(shape, [seed]),
    )


def _hash(shape: tuple[int, ...], seeds: list[jax.Array]) -> jax.Array:
    """The hash of each position and of the sum of ``seeds``, each added to an axis."""
    position = jnp.broadcast_to(sum(seeds[len(shape) :], jnp.uint32(0)), shape)
    for axis in range(len(shape)):
        spread = np.uint32(pow(_ODD, axis + 1, 2**32))
        numbers = jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * spread
        position += numbers + seeds[axis] if axis < len(seeds) else numbers
    return mix(position)


def next_seed(seed: jax.Array) -> jax.Array:
    """The seed of the next step."""
    mixed = mix(seed + jnp.uint32(_ODD))
    return mixed ^ (mixed >> 16)


def array_seed(seed: jax.Array, number: Any) -> jax.Array:
    """The seed of one of the arrays that a step rounds."""
    return next_seed(seed + number * np.uint32(0x632BE5AB))


def uniform(bits: jax.Array) -> jax.Array:
    """Float32 numbers in [0, 1), from the upper 24 bits."""
    return (bits >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2**-24)


def mix(x: jax.Array) -> jax.Array:
    """The bijection "lowbias32" of C. Wellons' hash-prospector, without its last line.

    That line mixes the lower bits, which rounding does not use.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    return (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def round_stochastically(x: jax.Array, dtype: jnp.dtype, bits: jax.Array) -> jax.Array:
    """``x`` (float32) in ``dtype``: one of its two neighbors, the nearer one more often.

    ``bits`` are random uint32. Numbers of ``dtype`` are exact, beyond the largest one
    rounding is to nearest, and NaN stays NaN. The derivative is that of a conversion:
    straight through, in ``dtype``.
    """
    limits, wide = jnp.finfo(dtype), jnp.finfo(x.dtype)
    # Random bits are added to those that the dtype has no place for, which are cut then.
    # The result stays float32 up to the end: with integers of the dtype's width XLA for
    # TPU does not join this loop with that of the update.
    lost = wide.nmant - limits.nmant
    pattern = jax.lax.bitcast_convert_type(x, jnp.uint32)
    cut = (pattern + (bits >> (32 - lost))) & np.uint32(2**32 - 2**lost)
    rounded = jax.lax.bitcast_convert_type(cut, x.dtype)
    if limits.minexp > wide.minexp:
        # Below its smallest normal number the dtype has multiples of the smallest one.
        smallest = float(limits.smallest_subnormal)
        count = jnp.floor(jnp.abs(x) / smallest + uniform(bits))
        multiple = jnp.copysign(count * smallest, x)
        rounded = jnp.where(jnp.abs(x) < float(limits.tiny), multiple, rounded)
    return jnp.where(jnp.abs(x) <= float(limits.max), rounded, x).astype(dtype)


@round_stochastically.defjvp
def _straight_through(
    dtype: jnp.dtype,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    return round_stochastically(primals[0], dtype, primals[1]), tangents[0].astype(dtype)
