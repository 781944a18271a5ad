"""Rows of a table by their ids."""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._axes import sharded_like
from rmsprop_optax._foundation._trees import content_of
from rmsprop_optax._foundation._types import Tracer
from rmsprop_optax.sparse._opaque import shape_alone, unwrap_indices, wrap_indices
from rmsprop_optax.sparse._tables import as_ids, places, replicated, rows_at


@jax.tree_util.register_pytree_node_class
class TableView:
    """The rows of a table that a loss needs, in the place of the table.

    [`value_and_grad`][rmsprop_optax.sparse.value_and_grad] hands it to the loss;
    [`lookup`][rmsprop_optax.sparse.lookup] reads it, and nothing else does.

    Attributes:
      indices: Which, sorted and unique, int32.
      rows: Their parameters, of shape (n, *shape[1:]).
      dtype: That of the rows.
      shape: The shape of the whole table.
    """

    def __init__(self, indices: Any, rows: Any, shape: tuple[int, ...]) -> None:
        self._wrapped, self.rows, self.shape = wrap_indices(indices), rows, shape
        # linen compares the shape of the first leaf of a parameter with the declared one.
        self._token = shape_alone(shape)

    @property
    def indices(self) -> Any:
        """Which rows."""
        return unwrap_indices(self._wrapped)

    @property
    def dtype(self) -> Any:
        """That of the rows."""
        return self.rows.dtype

    def tree_flatten(self) -> Any:
        return (self._token, self._wrapped, self.rows), self.shape

    @classmethod
    def tree_unflatten(cls, shape: tuple[int, ...], children: Any) -> "TableView":
        new = object.__new__(cls)
        new._token, new._wrapped, new.rows = children
        new.shape = shape
        return new

    def _misused(self) -> str:
        return (
            f"A table of shape {self.shape} is looked up by rows in this loss, and also "
            "used as a whole. Use `sparse.lookup(table, ids)` only; or leave it out of "
            "the `ids` of `sparse.value_and_grad`: then its gradient is dense."
        )

    def __jax_array__(self) -> NoReturn:
        raise TypeError(self._misused())

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name if name.startswith("_") else self._misused())

    def __getitem__(self, ids: Any) -> NoReturn:
        raise TypeError(self._misused())

    __matmul__ = __rmatmul__ = __add__ = __radd__ = __mul__ = __rmul__ = __getitem__
    __sub__ = __rsub__ = __truediv__ = __rtruediv__ = __pow__ = __getitem__


def lookup(table: Any, ids: Any) -> jax.Array:
    """The rows of ``table`` with these ids.

    Outside [`value_and_grad`][rmsprop_optax.sparse.value_and_grad] this is
    ``table[ids]``; inside it, it is the only way to read a table.

    Args:
      table: Rows along its first axis; or an `nnx.Param` with them inside.
      ids: Integers of any shape.

    Returns:
      An array of shape (*ids.shape, *table.shape[1:]). A traced id outside the table, or
      (inside `value_and_grad`) not among the rows that were announced, gives NaN. It
      never reads another row.

    Raises:
      TypeError: For ids that are not integers.
      ValueError: For known ids outside the table, or (inside `value_and_grad`) not
        announced.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import sparse
      >>> table = jnp.arange(6.0).reshape(3, 2)
      >>> print(sparse.lookup(table, jnp.array([2, 0])))
      [[4. 5.]
       [0. 1.]]
    """
    table = content_of(table)
    height = table.shape[0]
    ids = as_ids(ids, height, "Ids")
    if not isinstance(table, TableView):
        return rows_at(table, ids)
    as_given, ids = ids, replicated(ids)
    place = places(table.indices, ids)
    count = table.indices.shape[0]
    found = table.indices.at[place].get(mode="fill", fill_value=-1) == ids
    # Where both are known, outside of `jax.jit`, no id is missing.
    if not isinstance(found, Tracer) and not found.all():
        missing = np.asarray(ids)[~np.asarray(found)]
        raise ValueError(
            f"Row {missing.flat[0]} is looked up (one of {missing.size} such ids), and "
            "the `ids` of `sparse.value_and_grad` did not announce it."
        )
    # An id outside the table equals the index of the padding, which is no row.
    place = jnp.where(found & (ids < height), place, count)
    return rows_at(table.rows, sharded_like(place, as_given))
