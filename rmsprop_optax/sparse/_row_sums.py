"""Sums of gradients that come by rows, for gradient accumulation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._alignment import MOMENTS
from rmsprop_optax._foundation._axes import named_sharding, sharded_like, whole_rows
from rmsprop_optax._foundation._checks import check_mapping, check_whole_number
from rmsprop_optax._foundation._dtypes import wide_dtype
from rmsprop_optax._foundation._state_fields import register, state_fields
from rmsprop_optax._foundation._trees import (
    align,
    is_leaf,
    leaves_with_paths,
    rebuild,
)
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.sparse._row_slices import RowSlices
from rmsprop_optax.sparse._tables import sum_rows
from rmsprop_optax.wrappers._accumulation import DenseSums, add_leaf


class RowSumsState(NamedTuple):
    """The sums that [`RowSums`][rmsprop_optax.sparse.RowSums] keeps, two trees of arrays.

    Attributes:
      values: For a table that comes by rows, the sums of its rows; else the sum.
      rows: For such a table, which rows these are, int32, padded with its height; else
        the number 0.
    """

    values: PyTree
    rows: PyTree


register(RowSumsState, state_fields(values="sum", rows="full"))


@dataclass(frozen=True)
class RowSums(DenseSums):
    """Adds up gradients, some of which are `RowSlices`.

    Pass it as the argument ``sums`` of
    [`accumulate_gradients`][rmsprop_optax.accumulate_gradients]; ``rmsprop`` makes it
    from its argument ``accumulate_rows``.

    Args:
      accumulate_rows: A mapping from the path of each table whose gradient comes by rows,
        such as ``encoder/embedding``, to the largest number of rows that the calls of one
        update touch together. k times the ids of a call is always enough. If there are
        more rows than this number, the update is NaN.

    Raises:
      TypeError: For what is not a mapping from paths to integers.
      ValueError: For a number less than 1; at ``init``, for a path that is not a table.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_optax import accumulate_gradients, sparse
      >>> sums = sparse.RowSums({"table": 4})
      >>> tx = accumulate_gradients(sparse.lazy(optax.sgd(1.0)), 2, sums)
      >>> params = {"table": jnp.zeros((9, 1))}
      >>> state = tx.init(params)
      >>> for row in (3, 5):
      ...     grads = sparse.RowSlices(jnp.array([row]), jnp.ones((1, 1)), (9, 1))
      ...     updates, state = tx.update({"table": grads}, state, params)
      >>> updates["table"]
      RowSlices(2 of 9 rows (2 free), row shape (1,), float32, indices [3 5])
    """

    accumulate_rows: Mapping[str, int] = field(hash=False)  # a dict has no hash

    def __post_init__(self) -> None:
        check = partial(check_whole_number, least=1)
        check_mapping("accumulate_rows", self.accumulate_rows, check)

    def init(self, params: PyTree) -> RowSumsState:
        """Zeros for each parameter; for a table by rows, space for some of them."""
        # `optax.tree.map_params` calls `init` with a placeholder, which has no leaves.
        if jax.tree.leaves(params):
            self._check_paths(params)
        values, rows = [], []
        for path, p in leaves_with_paths(params):
            size = self.accumulate_rows.get(path)
            if p is None or size is None:
                values.append(None if p is None else _zeros(p))
                # A number, and not None, so that a tree of specs fits the rows too.
                rows.append(None if p is None else jnp.zeros([], jnp.int32))
            else:
                values.append(_zeros(p, size))
                rows.append(jnp.full(size, jnp.shape(p)[0], jnp.int32))
        return RowSumsState(rebuild(params, values), rebuild(params, rows))

    def add(self, acc_grads: RowSumsState, updates: PyTree) -> PyTree:
        """The sums with one more gradient; for a table by rows, the union of the rows."""
        columns = align(updates, acc_grads.values, acc_grads.rows)
        if columns is None:
            # Raises, with the path that does not match.
            super().add(acc_grads.values, updates)
            raise ValueError(f"The gradients do not have the tree of the {MOMENTS}.")
        paths = [path for path, _ in leaves_with_paths(updates)]
        new = [_add(path, *row) for path, row in zip(paths, columns, strict=True)]
        return rebuild(updates, new)

    def store(self, sums: PyTree) -> RowSumsState:
        """The sums as plain arrays, which checkpoints and other libraries can hold."""

        def rows(leaf: Any) -> Any:
            if isinstance(leaf, RowSlices):
                return leaf.indices
            return None if leaf is None else jnp.zeros([], jnp.int32)

        def values(leaf: Any) -> Any:
            return leaf.values if isinstance(leaf, RowSlices) else leaf

        return RowSumsState(
            jax.tree.map(values, sums, is_leaf=is_leaf),
            jax.tree.map(rows, sums, is_leaf=is_leaf),
        )

    def _check_paths(self, params: PyTree) -> None:
        leaves = leaves_with_paths(params)
        tables = {path for path, p in leaves if p is not None and jnp.ndim(p)}
        for path in self.accumulate_rows:
            if path not in tables:
                raise ValueError(
                    f"`accumulate_rows` names '{path}', which is not a parameter with "
                    f"rows. These are {sorted(tables)}."
                )


def _zeros(p: Any, rows: int | None = None) -> jax.Array:
    """The sum of a parameter, or of some rows of it, which every device has all of."""
    dtype = wide_dtype(jnp.result_type(p))
    if rows is None:
        return jnp.zeros_like(p, dtype)
    sharding = whole_rows(named_sharding(p))
    return jnp.zeros((rows, *jnp.shape(p)[1:]), dtype, device=sharding)


def _add(path: str, g: Any, total: Any, rows: Any) -> Any:
    if rows is None or not jnp.ndim(rows):
        if isinstance(g, RowSlices):
            raise ValueError(
                f"Gradient '{path}' comes by rows and is accumulated: say how many rows "
                "the calls of one update touch at the most, "
                f"`accumulate_rows={{'{path}': n}}`."
            )
        return add_leaf(g, total)
    if g is None:
        raise ValueError(
            f"Gradient '{path}' is None, and is to be accumulated by rows: give "
            "`RowSlices` that touch no row (`zeros_like()` of others)."
        )
    if not isinstance(g, RowSlices):
        raise ValueError(
            f"Gradient '{path}' is dense, and is to be accumulated by rows: leave its "
            "path out of `accumulate_rows`, or give `RowSlices`."
        )
    return _add_rows(rows, total, g)


def _add_rows(rows: jax.Array, values: jax.Array, g: RowSlices) -> RowSlices:
    """The union of both, in as many rows as there is space for.

    More rows than that turn all of them into NaN: that can't go unnoticed.
    """
    size, height = len(rows), g.shape[0]
    indices = jnp.concatenate([rows, g.indices])
    new = sharded_like(g.values.astype(values.dtype), values)
    summed = jnp.concatenate([values, new])
    union, summed = sum_rows(indices, summed, height)
    if len(union) > size:
        summed = jnp.where(union[size] < height, jnp.nan, summed[:size])
    return RowSlices.from_sorted(union[:size], summed, g.shape)
