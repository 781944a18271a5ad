"""Rows of a table by their ids."""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._row_slices import check_ids
from rmsprop_optax._foundation._sealed import seal, unseal


@jax.tree_util.register_pytree_node_class
class TableView:
    """A table inside of a loss that is differentiated by rows: the rows it needs.

    What [`value_and_grad`][rmsprop_optax.sparse.value_and_grad] puts in the place of a
    table; [`lookup`][rmsprop_optax.sparse.lookup] reads it, and nothing else does.

    Attributes:
      indices: Which, sorted and unique, int32.
      rows: Their parameters, of shape (n, *shape[1:]).
      dtype: That of the rows.
      shape: The shape of the whole table.
    """

    def __init__(self, indices: Any, rows: Any, shape: tuple[int, ...]) -> None:
        self._sealed, self.rows, self.shape = seal(indices), rows, shape

    @property
    def indices(self) -> Any:
        """Which rows."""
        return unseal(self._sealed)

    @property
    def dtype(self) -> Any:
        """That of the rows."""
        return self.rows.dtype

    def tree_flatten(self) -> Any:
        return (self._sealed, self.rows), self.shape

    @classmethod
    def tree_unflatten(cls, shape: tuple[int, ...], children: Any) -> "TableView":
        made = object.__new__(cls)
        made._sealed, made.rows = children
        made.shape = shape
        return made

    def _misused(self) -> str:
        return (
            f"A table of shape {self.shape} is looked up by rows here, and used as a "
            "whole too: use `sparse.lookup(table, ids)` only, or leave it out of `ids` "
            "of `sparse.value_and_grad`, and its gradient is dense."
        )

    def __jax_array__(self) -> NoReturn:
        raise TypeError(self._misused())

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name if name.startswith("_") else self._misused())

    def __getitem__(self, ids: Any) -> NoReturn:
        raise TypeError(self._misused())

    __matmul__ = __rmatmul__ = __add__ = __radd__ = __mul__ = __rmul__ = __getitem__
    __sub__ = __rsub__ = __truediv__ = __rtruediv__ = __pow__ = __getitem__


def lookup(table: jax.Array | TableView, ids: Any) -> jax.Array:
    """The rows of ``table`` with these ids.

    Outside of [`value_and_grad`][rmsprop_optax.sparse.value_and_grad] this is
    ``table[ids]``; inside of it, the only thing that can be done with a table.

    Args:
      table: Rows along its first axis.
      ids: Integers of any shape.

    Returns:
      An array of shape (*ids.shape, *table.shape[1:]). An id that is traced, and outside
      of the table or (inside of `value_and_grad`) not among the rows that were announced,
      gives NaN: it never reads another row.

    Raises:
      TypeError: For ids that are not integers.
      ValueError: For known ids outside of the table.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import sparse
      >>> table = jnp.arange(6.0).reshape(3, 2)
      >>> print(sparse.lookup(table, jnp.array([2, 0])))
      [[4. 5.]
       [0. 1.]]
    """
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"Ids must be integers, got {ids.dtype}.")
    height = table.shape[0]
    check_ids(ids, height)
    if isinstance(table, TableView):
        place = jnp.searchsorted(table.indices, ids).astype(jnp.int32)
        count = table.indices.shape[0]
        found = table.indices.at[place].get(mode="fill", fill_value=-1) == ids
        return _rows(table.rows, jnp.where(found, place, count))
    return _rows(table, jnp.where((ids < 0) | (ids >= height), height, ids))


def _rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    return table.at[ids].get(mode="fill", fill_value=jnp.nan)
