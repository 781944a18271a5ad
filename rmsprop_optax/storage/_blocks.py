"""Blocks along the last axis of an array: how many, and one number for each of them."""

import math
from functools import cache
from typing import Any

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


def largest(x: jax.Array, count: int) -> jax.Array:
    """The largest number of each block, of numbers that are not negative: (..., count).

    Each platform has a form of its own. With `jnp.max` XLA on CPU writes ``x`` to memory
    first, and a step takes twice the time. A TPU copies ``x`` where it has no `_tiles`.
    """
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: _max_by_quarters(_split(x, count)),
        tpu=lambda x: _max_in_tiles(x, count),
        default=lambda x: jnp.max(_split(x, count), axis=-1),
    )


def spread(numbers: jax.Array, like: jax.Array) -> jax.Array:
    """One number for each block, in each place of that block of the array ``like``."""
    return jax.lax.platform_dependent(
        numbers,
        tpu=lambda numbers: _spread_in_tiles(numbers, like),
        default=lambda numbers: _spread(numbers, like),
    )


def _split(x: jax.Array, count: int) -> jax.Array:
    """Of shape (..., last): (..., count, size), padded with 0."""
    *lead, last = x.shape
    shape = (*lead, count, math.ceil(last / count))
    padding = count * shape[-1] - last
    explicit = _explicit_spec(x)
    if explicit is not None:
        mesh, spec = explicit
        if count % shards_of_last_axis(x):  # blocks that reach over two shards
            spec = (*spec[:-1], None)
            x = jax.reshard(x, jax.NamedSharding(mesh, jax.P(*spec)))
        explicit = jax.NamedSharding(mesh, jax.P(*spec, None))
    if padding:
        x = jnp.pad(x, [(0, 0)] * len(lead) + [(0, padding)])
    return jax.lax.reshape(x, shape, out_sharding=explicit)


def _spread(numbers: jax.Array, like: jax.Array) -> jax.Array:
    *lead, last = like.shape
    count = numbers.shape[-1]
    size = math.ceil(last / count)
    explicit = _explicit_spec(numbers)
    if explicit is not None:
        explicit = jax.NamedSharding(explicit[0], jax.P(*explicit[1]))
    x = jnp.broadcast_to(numbers[..., None], (*numbers.shape, size))
    x = jax.lax.reshape(x, (*lead, count * size), out_sharding=explicit)
    return sharded_like(x[..., :last], like)


def _max_in_tiles(x: jax.Array, count: int) -> jax.Array:
    view = _tiles(x.shape, count)
    if view is None or _explicit_spec(x) is not None:
        return jnp.max(_split(x, count), axis=-1)
    top = jnp.max(_in_eights(x, view).reshape(view), axis=-1)
    rows = view[-4] * SUBLANES
    return top.reshape(*x.shape[:-2], rows, count)[..., : x.shape[-2], :]


def _spread_in_tiles(numbers: jax.Array, like: jax.Array) -> jax.Array:
    view = _tiles(like.shape, numbers.shape[-1])
    if view is None or _explicit_spec(numbers) is not None:
        return _spread(numbers, like)
    numbers = _in_eights(numbers, view).reshape(*view[:-1], 1)
    rows, x = view[-4] * SUBLANES, jnp.broadcast_to(numbers, view)
    return x.reshape(*like.shape[:-2], rows, like.shape[-1])[..., : like.shape[-2], :]


def _tiles(shape: tuple[int, ...], count: int) -> tuple[int, ...] | None:
    """(..., rows / 8, 8, count, 128), with padded rows; None where there is no such view.

    So a TPU keeps an array with a multiple of 128 columns: as tiles of 8 rows and 128
    columns.
    """
    *lead, last = shape
    if not lead or count == 1 or last != count * LANES:
        return None
    return (*lead[:-1], math.ceil(lead[-1] / SUBLANES), SUBLANES, count, LANES)


def _in_eights(x: jax.Array, view: tuple[int, ...]) -> jax.Array:
    """``x`` with as many rows as the view has."""
    padding = view[-4] * SUBLANES - x.shape[-2]
    if not padding:
        return x
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, padding), (0, 0)])


def _max_by_quarters(x: jax.Array) -> jax.Array:
    """The largest along the last axis, which XLA on CPU computes in the loop of ``x``.

    As integers, which have the order of numbers that are not negative, with NaN above
    all. The quarters of quarters are a loop of their own.
    """
    integers = jnp.dtype(f"int{x.dtype.itemsize * 8}")
    bits = _max_of_quarters(jax.lax.bitcast_convert_type(x, integers))
    bits = jax.lax.optimization_barrier(bits)
    while bits.shape[-1] > 1:
        bits = _max_of_quarters(bits)
    return jax.lax.bitcast_convert_type(bits[..., 0], x.dtype)


def _max_of_quarters(x: jax.Array) -> jax.Array:
    size = x.shape[-1]
    width = math.ceil(size / 4)
    starts = [min(part * width, size - width) for part in range(4)]
    first, second, third, last = (x[..., s : s + width] for s in starts)
    return jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, last))


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
