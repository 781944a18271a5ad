"""The rows of a table that a gradient touches: out of it, and back into it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._row_slices import (
    RowSlices,
    RowTotals,
    get_rows,
    set_rows,
)
from rmsprop_optax._foundation._stored import is_stored


def take_rows(held: Any, g: RowSlices) -> Any:
    """The rows of a table that ``g`` touches; what the padding gets is of no consequence.

    ``held`` may also be rows, those of ``g``: an update beside its gradient.
    """
    if isinstance(held, RowSlices):
        return held.values
    if is_stored(held):
        rows = {name: get_rows(x, g.indices) for name, x in held.arrays.items()}
        return held._replace(**rows)
    return get_rows(jnp.asarray(held), g.indices)


def put_rows(held: Any, g: RowSlices, rows: Any) -> Any:
    """The table with ``rows`` in the place of those that ``g`` touches."""
    if isinstance(held, RowSlices):
        return held.with_values(rows)
    if is_stored(held):
        arrays = held.arrays.items()
        put = {name: set_rows(x, g.indices, rows.arrays[name]) for name, x in arrays}
        return rows._replace(**put)
    return set_rows(held, g.indices, rows)


def keep_padding(values: jax.Array, g: RowSlices) -> jax.Array:
    """Zeros in the padding, where a rule may have made NaN of nothing."""
    inside = (g.indices < g.shape[0]).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(inside, values, 0)


def touched_size(leaf: Any) -> Any:
    """How many values a gradient has, the padding of rows not counted."""
    if not isinstance(leaf, RowSlices):
        return jnp.size(leaf)
    rows = jnp.sum(leaf.indices < leaf.shape[0])
    return rows * math.prod(leaf.shape[1:])


def map_values(change: Callable[[Any], Any], leaf: Any) -> Any:
    """``change`` of an array, or of the values of rows."""
    if isinstance(leaf, RowSlices):
        return leaf.with_values(change(leaf.values))
    return change(leaf)


def no_rows(leaf: Any) -> Any:
    """Zeros like an array, or rows that touch nothing; None stays None."""
    if isinstance(leaf, RowSlices):
        nowhere = jnp.full(leaf.values.shape[0], leaf.shape[0], jnp.int32)
        return type(leaf).trusted(nowhere, jnp.zeros_like(leaf.values), leaf.shape)
    return None if leaf is None else jnp.zeros_like(leaf)


def empty_rows(table: Any, room: int, dtype: Any) -> RowTotals:
    """Rows that touch nothing yet, with room for some."""
    shape = jnp.shape(table)
    nowhere = jnp.full(room, shape[0], jnp.int32)
    return RowTotals.trusted(nowhere, jnp.zeros((room, *shape[1:]), dtype), shape)


def as_gradient(total: Any) -> Any:
    """What a state holds as what a transformation takes."""
    if not isinstance(total, RowTotals):
        return total
    return RowSlices.trusted(total.indices, total.values, total.shape)


def add_rows(total: RowTotals, g: RowSlices) -> RowTotals:
    """The sum of both, in the dtype and the room of ``total``.

    More rows than there is room for make NaN of all: that can't go unnoticed.
    """
    indices = jnp.concatenate([total.indices, g.indices])
    values = jnp.concatenate([total.values, g.values.astype(total.dtype)])
    union = RowTotals.coalesced(indices, values, total.shape)
    room = len(total.indices)
    if len(indices) == room:
        return union
    overflows = union.indices[room] < total.shape[0]
    values = jnp.where(overflows, jnp.nan, union.values[:room])
    return RowTotals.trusted(union.indices[:room], values, total.shape)
