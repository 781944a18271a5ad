"""The gradient of a table by rows."""

import operator
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._dtypes import divided
from rmsprop_optax._foundation._types import AxisName, Tracer
from rmsprop_optax.sparse._opaque import unwrap_indices, wrap_indices
from rmsprop_optax.sparse._tables import (
    add_rows,
    as_ids,
    get_rows,
    set_rows,
    sum_rows,
    table_of,
)


class _NamesRemedy(type):
    """JAX prints the class in its errors about trees that do not match."""

    def __repr__(cls) -> str:
        return (
            "RowSlices, rows of a table: wrap the transformation in "
            "`rmsprop_optax.sparse.lazy`, or call `to_dense()` on the gradient"
        )


@jax.tree_util.register_pytree_with_keys_class
class RowSlices(metaclass=_NamesRemedy):
    """Some rows of a gradient; all other rows are zero.

    The counterpart of TensorFlow's ``IndexedSlices``. `rmsprop`, the dialects and any
    Optax transformation inside [`lazy`][rmsprop_optax.sparse.lazy] take it in the place
    of a dense leaf: a row that is not in it keeps its parameter and all of its moments.
    `optax.apply_updates` adds it to the parameter row by row.

    Rows that are given more than once are summed, and the rows are sorted. Traced indices
    outside the table are dropped. The number of rows is static: free places at the end
    are padding, with the index ``shape[0]``.

    Args:
      indices: The rows, integers of shape (n,).
      values: Their gradients, of shape (n, *shape[1:]).
      shape: The shape of the whole table.

    Attributes:
      indices: As given, int32, sorted and unique but for the padding.
      values: The sums, 0 in the padding.
      shape: As given; static.

    Raises:
      TypeError: For indices that are not integers; also where a transformation that knows
        nothing of rows, such as `optax.scale`, would compute with them.
      ValueError: For known indices outside the table, or shapes that do
        not fit.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_optax import sparse
      >>> grads = sparse.RowSlices(jnp.array([2, 0, 2]), jnp.ones((3, 1)), (4, 1))
      >>> grads
      RowSlices(2 of 4 rows (1 free), row shape (1,), float32, indices [0 2])
      >>> print(grads.to_dense().T)
      [[1. 0. 2. 0.]]
      >>> print(optax.apply_updates(jnp.zeros((4, 1)), grads).T)
      [[1. 0. 2. 0.]]
    """

    # NumPy arrays and JAX's leave the sum to __radd__.
    __array_ufunc__ = None

    def __init__(self, indices: Any, values: Any, shape: tuple[int, ...]) -> None:
        values = jnp.asarray(values)
        shape = _as_shape(shape)
        _check(indices, values, shape)
        indices, self.values = sum_rows(as_ids(indices, shape[0]), values, shape[0])
        self._wrapped, self.shape = wrap_indices(indices), shape

    @classmethod
    def from_dense(cls, table: jax.Array, size: int | None = None) -> Self:
        """The rows of ``table`` that are not zero.

        Args:
          table: A dense gradient.
          size: How many rows it can hold, static; None: as many as there are,
            which can't be told inside `jax.jit`. Rows beyond it are dropped.
        """
        table = jnp.asarray(table)
        touched = jnp.any(table.reshape(table.shape[0], -1) != 0, axis=1)
        (rows,) = jnp.nonzero(touched, size=size, fill_value=table.shape[0])
        values = table.at[rows].get(mode="fill", fill_value=0)
        return cls.from_sorted(rows, values, table.shape)

    @classmethod
    def from_sorted(cls, indices: Any, values: Any, shape: tuple[int, ...]) -> Self:
        """Unchecked: ``indices`` are sorted, unique and padded already."""
        return cls.tree_unflatten(tuple(shape), (wrap_indices(indices), values))

    def with_values(self, values: Any) -> Self:
        """The same rows with other values."""
        return self.tree_unflatten(self.shape, (self._wrapped, values))

    def to_dense(self) -> jax.Array:
        """The whole table, zeros in the rows that are not here."""
        return table_of(self.indices, self.values, self.shape, is_sorted=True)

    @property
    def indices(self) -> Any:
        """Which rows, int32, sorted and unique but for the padding."""
        return unwrap_indices(self._wrapped)

    @property
    def dtype(self) -> Any:
        """That of the values."""
        return self.values.dtype

    def __radd__(self, table: Any) -> jax.Array:
        """The table with these rows added, rounded once, in the table's dtype."""
        table = jnp.asarray(table)
        if table.shape != self.shape:
            raise ValueError(
                f"{self!r} can't be added to an array of shape {table.shape}: it is the "
                f"gradient of a table of shape {self.shape}."
            )
        if self.dtype == table.dtype:  # a scatter alone is faster
            return add_rows(table, self.indices, self.values)
        # Row by row also where the dtypes differ: the table is never widened whole.
        rows = get_rows(table, self.indices) + self.values
        return set_rows(table, self.indices, rows.astype(table.dtype))

    def __repr__(self) -> str:
        height, row = self.shape[0], self.shape[1:]
        indices = self.indices
        known = isinstance(indices, jax.Array) and not isinstance(indices, Tracer)
        # A transformation may have put flags or anything else in the place of indices.
        if not known or not jnp.issubdtype(indices.dtype, jnp.integer):
            count = (*getattr(self._wrapped, "shape", ()), "?")[0]
            kind = getattr(self.values, "dtype", type(self.values).__name__)
            return f"RowSlices(up to {count} of {height} rows, row shape {row}, {kind})"
        all_rows = np.asarray(indices).ravel()
        rows = all_rows[all_rows < height]
        listed = np.array2string(rows, threshold=8, edgeitems=3)
        return (
            f"RowSlices({len(rows)} of {height} rows ({len(all_rows) - len(rows)} free), "
            f"row shape {row}, {self.dtype}, indices {listed})"
        )

    # What wrappers call on a gradient leaf that is not an array.

    def map_values(self, fn: Callable[[Any], Any]) -> Self:
        """The same rows with ``fn(values)``."""
        return self.with_values(fn(self.values))

    def zeros_like(self) -> Self:
        """As many rows, all of them padding."""
        nowhere = jnp.full_like(unwrap_indices(self._wrapped), self.shape[0], jnp.int32)
        values = jnp.zeros(self.values.shape, self.values.dtype)
        return self.from_sorted(nowhere, values, self.shape)

    def mean_over_devices(self, axis_name: AxisName) -> Self:
        """The mean over a mapped axis: the rows that any device touches.

        The devices send the rows that they touch, never a table.
        """

        def gather(x: jax.Array) -> jax.Array:
            return jax.lax.all_gather(x, axis_name, tiled=True, to="invarying")

        values = gather(divided(self.values, jax.lax.axis_size(axis_name)))
        return self.from_sorted(
            *sum_rows(gather(self.indices), values, self.shape[0]), self.shape
        )

    def sum_stacked(self) -> Self:
        """The sum of rows that `jax.lax.scan` stacked along a new first axis."""
        values = self.values.reshape(-1, *self.shape[1:])
        indices, values = sum_rows(self.indices.ravel(), values, self.shape[0])
        return self.from_sorted(indices, values, self.shape)

    def tree_flatten_with_keys(self) -> Any:
        keys = (jax.tree_util.GetAttrKey(name) for name in ("indices", "values"))
        return list(zip(keys, (self._wrapped, self.values), strict=True)), self.shape

    @classmethod
    def tree_unflatten(cls, shape: tuple[int, ...], children: Any) -> Self:
        new = object.__new__(cls)
        new._wrapped, new.values = children
        new.shape = shape
        return new


def _as_shape(shape: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        raise TypeError(
            f"`shape` must be the sizes of the table's axes, got {shape!r}."
        ) from None
    if any(not 0 <= size < 2**31 for size in sizes):
        raise ValueError(f"`shape` must have sizes from 0 to 2**31 - 1, got {shape!r}.")
    return sizes


def _check(indices: Any, values: jax.Array, shape: tuple[int, ...]) -> None:
    if not shape:
        raise ValueError("A table has at least one axis, that of its rows, got shape ().")
    if np.ndim(indices) != 1 or values.shape != (*np.shape(indices), *shape[1:]):
        raise ValueError(
            f"Of a table of shape {shape}, `indices` must have shape (n,) and `values` "
            f"(n, *{shape[1:]}), got {np.shape(indices)} and {values.shape}."
        )
