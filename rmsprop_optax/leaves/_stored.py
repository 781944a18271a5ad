"""A moment between steps and within one: opened to an array, kept as it was before."""

from typing import Any

import jax
import jax.numpy as jnp

from rmsprop_optax import rules
from rmsprop_optax._foundation._dtypes import cast, wide_dtype
from rmsprop_optax._foundation._stored import BlockCodes, Dithered
from rmsprop_optax.leaves._blocks import Blocks, Whole, blocks_of


def open_moment(held: Any, blocks: Blocks | Whole) -> jax.Array:
    """Its values, in blocks."""
    if isinstance(held, BlockCodes):
        return rules.decode(blocks.split(held.codes), held.scale[..., None])
    if isinstance(held, Dithered):
        return blocks.split(cast(held.values, wide_dtype(held.values.dtype)))
    return blocks.split(held)


def keep_moment(held: Any, new: jax.Array, blocks: Blocks | Whole) -> Any:
    """What was opened, kept as before."""
    if isinstance(held, BlockCodes):
        return _encode(held, cast(new, held.scale.dtype), blocks)
    if isinstance(held, Dithered):
        return _round(held, blocks.join(new))
    return cast(blocks.join(new), held.dtype)


def read_moment(held: Any) -> jax.Array:
    """The values of a moment, in the parameter's shape."""
    blocks = blocks_of([held])
    return blocks.join(open_moment(held, blocks))


def write_moment(held: Any, values: jax.Array) -> Any:
    """A moment with other values, kept as before."""
    blocks = blocks_of([held])
    return keep_moment(held, blocks.split(values), blocks)


def _encode(held: BlockCodes, new: jax.Array, blocks: Blocks | Whole) -> BlockCodes:
    dtype, key, chance = held.codes.dtype, held.key, None
    scale = rules.block_scale(new, dtype)
    if key is not None:
        chance = rules.unit(rules.dither(new.shape, key)).astype(new.dtype)
        key = rules.next_key(key)
    codes = blocks.join(rules.encode(new, scale, dtype, chance))
    return BlockCodes(codes, scale[..., 0], key)


def _round(held: Dithered, new: jax.Array) -> Dithered:
    bits = rules.dither(new.shape, held.key)
    values = rules.round_randomly(cast(new, jnp.float32), held.values.dtype, bits)
    return Dithered(values, rules.next_key(held.key))
