"""Arrays cut into blocks along their last axis, and joined again."""

import math
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._axes import (
    explicit_sharding,
    named_sharding,
    sharded_like,
)

SUBLANES, LANES = 8, 128
"""The rows and columns of a tile, in which a TPU keeps an array."""


def block_count(last: int, block_size: int, shards: int) -> int | None:
    """How many blocks to cut an axis into; None where no number of blocks will do.

    The fewest blocks of at most ``block_size``, or somewhat more of them where that makes
    them equal. Where the axis is sharded, no block reaches over two shards, so that codes
    and scales stay sharded as the parameter is.
    """
    part = last // shards
    least = math.ceil(part / block_size)
    equal = [n for n in range(least, 2 * least + 1) if part % n == 0]
    if equal:
        return shards * equal[0]
    if shards == 1:
        return least  # the last block is padded
    # A shard of 131 columns, a prime number: one block is better than 131 of them.
    larger = [
        n for n in range(least, 0, -1) if part % n == 0 and part <= 4 * n * block_size
    ]
    smaller = [n for n in range(least, part // 8 + 1) if part % n == 0]
    found = larger[:1] + smaller[:1]
    return shards * found[0] if found else None


@cache
def block_counts(last: int, block_size: int) -> frozenset[int | None]:
    """The numbers of blocks of an axis, on any number of shards."""
    shards = (n for n in range(1, last + 1) if last % n == 0)
    return frozenset(block_count(last, block_size, n) for n in shards)


def split(x: jax.Array, count: int) -> jax.Array:
    """Of shape (..., last): (..., count, size), or a view of that with blocks last."""
    size = math.ceil(x.shape[-1] / count)
    shape = tuple(axis.size for axis in view_of(x, count))
    explicit = _explicit_spec(x)
    if explicit is None:
        return _padded(x, count * size).reshape(shape)
    mesh, spec = explicit
    if count % shards_of_last_axis(x):  # blocks that reach over two shards
        spec = (*spec[:-1], None)
        x = jax.reshard(x, jax.NamedSharding(mesh, jax.P(*spec)))
    sharding = jax.NamedSharding(mesh, jax.P(*spec, None))
    return jax.lax.reshape(_padded(x, count * size), shape, out_sharding=sharding)


class ViewAxis(NamedTuple):
    """An axis of a view: a step along it is ``stride`` steps along ``axis``."""

    size: int
    axis: int
    stride: int


def view_of(x: jax.Array, count: int) -> list[ViewAxis]:
    """The view in which blocks are computed, each along the last axis.

    A TPU keeps an array as tiles of 8 rows and 128 columns. With blocks of 128 this view
    is that layout, and XLA copies nothing. Where there is none, it copies the array.
    """
    *lead, last = x.shape
    size, axis = math.ceil(last / count), len(lead)
    axes = [ViewAxis(n, i, 1) for i, n in enumerate(lead)]
    blocks, inside = ViewAxis(count, axis, size), ViewAxis(size, axis, 1)
    if size == LANES and last == count * size and _explicit_spec(x) is None:
        # Rows by eights; of an array without rows, blocks by eights.
        split, rest = (axes[-1:], [blocks]) if lead else ([blocks], [])
        if count > 1 and split[0].size % SUBLANES == 0:
            (n, i, stride), *_ = split
            eights = ViewAxis(n // SUBLANES, i, stride * SUBLANES)
            return [*axes[:-1], eights, ViewAxis(SUBLANES, i, stride), *rest, inside]
    return [*axes, blocks, inside]


def _padded(x: jax.Array, last: int) -> jax.Array:
    padding = last - x.shape[-1]
    if not padding:
        return x
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)])


def join(x: jax.Array, like: jax.Array) -> jax.Array:
    """What `split` returned, in the shape and the sharding of ``like``."""
    if x.size == like.size and _explicit_spec(x) is None:
        return x.reshape(like.shape)
    last, shape = like.shape[-1], (*x.shape[:-2], x.shape[-2] * x.shape[-1])
    explicit = _explicit_spec(x)
    if explicit is None:
        return x.reshape(shape)[..., :last]
    mesh, spec = explicit
    sharding = jax.NamedSharding(mesh, jax.P(*spec[:-1]))
    joined = jax.lax.reshape(x, shape, out_sharding=sharding)[..., :last]
    return sharded_like(joined, like)


def shards_of_last_axis(x: Any) -> int:
    """Into how many shards the last axis of a parameter is cut, as far as is known."""
    sharding = named_sharding(x)
    if sharding is None or not x.shape:
        return 1
    spec = (*sharding.spec, *[None] * (len(x.shape) - len(sharding.spec)))
    names = spec[-1] if isinstance(spec[-1], tuple) else (spec[-1],)
    return math.prod(sharding.mesh.shape[name] for name in names if name is not None)


def _explicit_spec(x: jax.Array) -> tuple[Any, tuple[Any, ...]] | None:
    """The mesh and the spec of an array whose sharding is part of its type, else None."""
    sharding = explicit_sharding(x)
    if sharding is None:
        return None
    spec = tuple(sharding.spec)
    return sharding.mesh, (*spec, *[None] * (x.ndim - len(spec)))
