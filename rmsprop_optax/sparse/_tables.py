"""Rows of a table by their indices, and the indices themselves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._axes import explicit_sharding, names_of, whole_rows
from rmsprop_optax._foundation._dtypes import common_dtype
from rmsprop_optax._foundation._types import Tracer


def as_ids(ids: Any, height: int, what: str = "Row indices") -> jax.Array:
    """Ids as int32; where traced, ids outside the table become ``height``.

    Raises:
      TypeError: For ids that are not integers.
      ValueError: For known ids outside the table. They are checked as they were given:
        int32 would turn 2**32 + 3 into 3.
    """
    if not isinstance(ids, jax.Array):
        ids = np.asarray(ids)
        if not ids.size and ids.dtype == float:  # an empty list
            ids = ids.astype(np.int32)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{what} must be integers, got {ids.dtype}.")
    if not isinstance(ids, Tracer):
        known = np.asarray(ids)
        outside = known[(known < 0) | (known >= height)]
        if outside.size:
            raise ValueError(
                f"Row {outside.flat[0]} is outside a table of {height} rows "
                f"(one of {outside.size} such ids)."
            )
        return jnp.asarray(ids, jnp.int32)
    # Compared in a dtype that holds both: int8 has no 1000, uint32 no -1.
    wide = ids.astype(common_dtype(ids.dtype, jnp.int32))
    return jnp.where((wide < 0) | (wide >= height), height, wide).astype(jnp.int32)


def unique_rows(ids: jax.Array, height: int) -> jax.Array:
    """The different ids, sorted, padded with ``height``, which also stands for others."""
    # Sorted twice, which takes a quarter of the time of `jnp.unique`, which sorts pairs.
    rows = jnp.sort(ids)
    again = jnp.concatenate([jnp.zeros(min(len(rows), 1), bool), rows[1:] == rows[:-1]])
    return jnp.sort(jnp.where(again, height, rows))


def sum_rows(
    ids: jax.Array, values: jax.Array, height: int
) -> tuple[jax.Array, jax.Array]:
    """Sorted, unique, padded; equal rows summed in the order in which they came."""
    unique = unique_rows(ids, height)
    slot = places(unique, ids)
    # Padding has no slot: past the end, and dropped.
    slot = jnp.where(ids < height, slot, len(unique))
    return unique, table_of(slot, values, values.shape)


def places(rows: jax.Array, ids: jax.Array) -> jax.Array:
    """For each id how many of the sorted rows are less: the place of its row.

    `jnp.searchsorted` fails in a `shard_map` that leaves an axis of the mesh automatic
    (jax 0.10 to 0.12), except for its method "sort", which takes ten times as long.
    """
    if not len(rows):
        return jnp.zeros_like(ids)

    def advance(found: jax.Array, step: Any) -> tuple[jax.Array, None]:
        next_place = found + step
        less = rows.at[next_place - 1].get(mode="clip") < ids
        return jnp.where((next_place <= len(rows)) & less, next_place, found), None

    steps = 2 ** np.arange(len(rows).bit_length(), dtype=np.int32)[::-1]
    # The first turn is outside of the loop: its result varies over the mesh axes that
    # rows or ids vary over, as all others do.
    start, _ = advance(jnp.zeros_like(ids), steps[0])
    return jax.lax.scan(advance, start, steps[1:])[0]


def get_rows(table: jax.Array, indices: jax.Array, fill: Any = 0) -> jax.Array:
    """The rows with these indices; ``fill`` in the place of those beyond the end."""
    sharding = whole_rows(explicit_sharding(table))
    rows = jnp.asarray(table).at[indices].get(mode="clip", out_sharding=sharding)
    inside = (indices < table.shape[0]).reshape(-1, *[1] * (table.ndim - 1))
    rows = jnp.where(inside, rows, jnp.asarray(fill, rows.dtype))
    if fill or rows.dtype != jnp.float32:
        return rows
    # Zeros once more. XLA on CPU uses vector instructions for a gather with arithmetic in
    # its loop, which takes half the time of one without.
    return rows * inside.astype(rows.dtype)


def rows_at(table: jax.Array, ids: jax.Array) -> jax.Array:
    """``table[ids]`` for ids of any shape; NaN where an id is outside the table."""
    table = jnp.asarray(table)
    if not table.shape[0]:  # XLA gathers nothing from nothing
        return jnp.full((*ids.shape, *table.shape[1:]), jnp.nan, table.dtype)
    sharding = explicit_sharding(table)
    if sharding is not None:
        row = sharding.spec[1:]
        used = {name for part in row if part is not None for name in names_of(part)}
        # The ids' axes come first, unless a row of the table is sharded over them.
        first = [
            part if part is not None and used.isdisjoint(names_of(part)) else None
            for part in jax.typeof(ids).sharding.spec
        ]
        first += [None] * (ids.ndim - len(first))
        sharding = jax.NamedSharding(sharding.mesh, jax.P(*first, *row))
    return table.at[ids].get(mode="fill", fill_value=jnp.nan, out_sharding=sharding)


def replicated(ids: jax.Array) -> jax.Array:
    """Ids that every device has all of, where shardings are a part of types."""
    sharding = explicit_sharding(ids)
    if sharding is None or not any(sharding.spec):
        return ids
    return jax.reshard(ids, jax.NamedSharding(sharding.mesh, jax.P()))


def table_of(
    indices: jax.Array,
    rows: jax.Array,
    shape: tuple[int, ...],
    *,
    is_sorted: bool = False,
) -> jax.Array:
    """A table with these rows added up, and zeros elsewhere."""
    sharding = whole_rows(explicit_sharding(rows))
    table = jnp.zeros(shape, rows.dtype, out_sharding=sharding)
    return table.at[indices].add(
        rows, mode="drop", indices_are_sorted=is_sorted, out_sharding=sharding
    )


def set_rows(table: jax.Array, indices: jax.Array, rows: jax.Array) -> jax.Array:
    """The table with these rows; those with an index outside it are dropped."""
    sharding = explicit_sharding(table)
    return jnp.asarray(table).at[indices].set(rows, mode="drop", out_sharding=sharding)


def add_rows(table: jax.Array, indices: jax.Array, rows: jax.Array) -> jax.Array:
    """The table with ``rows`` added; those with an index outside it are dropped."""
    sharding = explicit_sharding(table)
    return jnp.asarray(table).at[indices].add(rows, mode="drop", out_sharding=sharding)
