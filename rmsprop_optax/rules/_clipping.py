"""Clipping of one array by its values, or by a norm that was measured."""

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._dtypes import by_parts, multiplied
from rmsprop_optax._foundation._types import Scalar


def clip_by_value(g: jax.Array, max_delta: Scalar) -> jax.Array:
    """Each value into [-max_delta, max_delta]; of a complex one, both parts."""
    return by_parts(lambda part: jnp.clip(part, -max_delta, max_delta), g)


def clip_by_norm(g: jax.Array, norm: jax.Array, max_norm: jax.Array) -> jax.Array:
    """g max_norm / norm where norm > max_norm, else g to the last bit.

    (Except for subnormals, which XLA on CPU flushes to zero in a product.) ``norm`` and
    ``max_norm`` are in the same unit. An infinite norm makes ``g`` 0, but for its own
    infinities, and a NaN norm makes all of it NaN.
    """
    # A product with a number: XLA on CPU writes a choice between two arrays to memory.
    return multiplied(g, 1 / jnp.maximum(norm / max_norm, 1))
