"""Arrays cut into blocks along their last axis, and put together again."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._stored import BlockCodes


def block_count(last: int, block_size: int) -> int:
    """As few blocks as ``block_size`` allows, or some more where that makes them equal.

    Padding would be a copy of the gradient, of the parameter and of each moment.
    """
    least = math.ceil(last / block_size)
    equal = (n for n in range(least, 2 * least + 1) if last % n == 0)
    return next(equal, least)


class Blocks(NamedTuple):
    """How the last axis of a leaf is cut.

    Attributes:
      count: The number of blocks; as equal as can be, and padded with zeros.
      last: The length of the axis.
    """

    count: int
    last: int

    def split(self, x: jax.Array) -> jax.Array:
        """Of shape (..., last): (..., count, size)."""
        size = math.ceil(self.last / self.count)
        padding = self.count * size - self.last
        if padding:
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)])
        return x.reshape(*x.shape[:-1], self.count, size)

    def join(self, x: jax.Array) -> jax.Array:
        """Of shape (..., count, size): (..., last)."""
        return x.reshape(*x.shape[:-2], -1)[..., : self.last]


class Whole:
    """Arrays as they are."""

    def split(self, x: jax.Array) -> jax.Array:
        return x

    def join(self, x: jax.Array) -> jax.Array:
        return x


def blocks_of(moments: list[Any]) -> Blocks | Whole:
    """The cut of the moments of one leaf; those in blocks all have the same."""
    for moment in moments:
        if isinstance(moment, BlockCodes):
            return Blocks(moment.scale.shape[-1], moment.codes.shape[-1])
    return Whole()
