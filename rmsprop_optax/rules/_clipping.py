"""Clipping of one array by its values, or by a norm that was measured."""

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._dtypes import real_like
from rmsprop_optax._foundation._types import Scalar


def clip_by_value(g: jax.Array, max_delta: Scalar) -> jax.Array:
    """Each value into [-max_delta, max_delta]; of a complex one, both parts."""
    if jnp.iscomplexobj(g):
        return jax.lax.complex(
            jnp.clip(g.real, -max_delta, max_delta),
            jnp.clip(g.imag, -max_delta, max_delta),
        )
    return jnp.clip(g, -max_delta, max_delta)


def clip_by_norm(g: jax.Array, norm: jax.Array, max_norm: Scalar) -> jax.Array:
    """g max_norm / norm where norm > max_norm, else g to the last bit.

    (Except for subnormals, which XLA on CPU flushes to zero in a product.) A NaN norm
    makes all of ``g`` NaN.
    """
    # Products with numbers: XLA on CPU writes a choice between two arrays to memory.
    # Where the inverse of the ratio is not in the dtype, its root is, twice.
    ratio = norm / max_norm
    fits = ratio < 2.0 ** (jnp.finfo(norm.dtype).maxexp - 3)
    # Of 1 where it is not used: the root of 0 has no derivative.
    root = jnp.sqrt(real_like(max_norm, norm)) / jnp.sqrt(jnp.where(fits, 1, norm))
    first = jnp.where(fits, 1, root)
    second = jnp.where(fits, 1 / jnp.maximum(ratio, 1), root)
    return g * real_like(first, g) * real_like(second, g)
