"""A checksum of the values of an array, whatever devices they are on."""

import jax
import jax.numpy as jnp

from rmsprop_optax.storage._rounding import hash_bits, mix


@jax.jit
def bit_sum(x: jax.Array) -> jax.Array:
    """A uint32 sum of a hash of each value's bits and position.

    It does not depend on the sharding of the array, nor on the number of devices or
    processes: sums of integers have no order. One changed value always changes it.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag])
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    if _bits(x.dtype) < 8:  # no unsigned integer is as narrow as int4
        x = x.astype(jnp.int32 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.float32)
    width = min(8 * x.dtype.itemsize, 32)  # 64 bits become two numbers of 32
    bits = jax.lax.bitcast_convert_type(x, f"uint{width}").astype(jnp.uint32)
    return jnp.sum(mix(bits ^ hash_bits(bits.shape, jnp.uint32(1))), dtype=jnp.uint32)


def _bits(dtype: jnp.dtype) -> int:
    integer = jnp.issubdtype(dtype, jnp.integer)
    return (jnp.iinfo(dtype) if integer else jnp.finfo(dtype)).bits
