"""The gradient of a table by rows: the one kind of leaf that is not an array."""

from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rmsprop_optax._foundation._sealed import seal, unseal


@jax.tree_util.register_pytree_with_keys_class
class RowSlices:
    """Some rows of a gradient; all other rows are zero, and were not touched.

    The counterpart of TensorFlow's ``IndexedSlices``. Every transformation of this
    library takes it in the place of a dense leaf, and is then *lazy*: a row that is not
    in it keeps its parameter and all of its moments. `optax.apply_updates` adds it to the
    parameter row by row.

    Rows that are given more than once are summed; the rows are sorted; indices outside
    of the table are dropped where they are traced. So the number of rows is static, and
    what is free at the end is padding, with ``shape[0]`` as its index.

    Args:
      indices: The rows, integers of shape (n,).
      values: Their gradients, of shape (n, *shape[1:]).
      shape: The shape of the whole table.

    Attributes:
      indices: As given, int32, sorted and unique but for the padding.
      values: The sums, 0 in the padding.
      shape: As given; static.

    Raises:
      TypeError: For indices that are not integers; also where something that knows
        nothing of rows would compute with them, such as `optax.scale`.
      ValueError: For indices that are known and outside of the table, or shapes that do
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
    _close, _open = staticmethod(seal), staticmethod(unseal)

    def __init__(self, indices: Any, values: Any, shape: tuple[int, ...]) -> None:
        indices, values = jnp.asarray(indices), jnp.asarray(values)
        shape = tuple(int(size) for size in shape)
        _check(indices, values, shape)
        indices, self.values = _coalesce(indices, values, shape[0])
        self._held, self.shape = self._close(indices), shape

    @classmethod
    def from_dense(cls, table: jax.Array, size: int | None = None) -> Self:
        """The rows of ``table`` that are not zero.

        Args:
          table: A dense gradient.
          size: How many rows there is room for, static; None: as many as there are,
            which can't be told inside of `jax.jit`. Rows beyond it are dropped.
        """
        touched = jnp.any(table.reshape(table.shape[0], -1) != 0, axis=1)
        (rows,) = jnp.nonzero(touched, size=size, fill_value=table.shape[0])
        return cls.trusted(
            rows, table.at[rows].get(mode="fill", fill_value=0), table.shape
        )

    @classmethod
    def trusted(cls, indices: Any, values: Any, shape: tuple[int, ...]) -> Self:
        """Without looking: ``indices`` are sorted, unique and padded already."""
        made = object.__new__(cls)
        made._held, made.values, made.shape = cls._close(indices), values, tuple(shape)
        return made

    @classmethod
    def coalesced(cls, indices: Any, values: Any, shape: tuple[int, ...]) -> Self:
        """In any order, some more than once, padding among them: no id is refused."""
        return cls.trusted(*_coalesce(indices, values, shape[0]), shape)

    def with_values(self, values: Any) -> Self:
        """The same rows with other values."""
        return self.tree_unflatten(self.shape, (self._held, values))

    def to_dense(self) -> jax.Array:
        """The whole table, zeros in the rows that are not here."""
        return (
            jnp.zeros(self.shape, self.dtype)
            .at[self.indices]
            .add(self.values, mode="drop", indices_are_sorted=True)
        )

    @property
    def indices(self) -> Any:
        """Which rows, int32, sorted and unique but for the padding."""
        return self._open(self._held)

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
        # Row by row also where the dtypes differ: the table is never widened whole.
        rows = get_rows(table, self.indices) + self.values
        return set_rows(table, self.indices, rows.astype(table.dtype))

    def __repr__(self) -> str:
        height, row = self.shape[0], self.shape[1:]
        held = self.indices
        if not isinstance(held, jax.Array) or isinstance(held, Tracer) or held.ndim != 1:
            count = (*getattr(self._held, "shape", ()), "?")[0]
            kind = getattr(self.values, "dtype", type(self.values).__name__)
            return f"RowSlices(up to {count} of {height} rows, row shape {row}, {kind})"
        held = np.asarray(held)
        rows = held[held < height]
        listed = np.array2string(rows, threshold=8, edgeitems=3)
        return (
            f"RowSlices({len(rows)} of {height} rows ({len(held) - len(rows)} free), "
            f"row shape {row}, {self.dtype}, indices {listed})"
        )

    def tree_flatten_with_keys(self) -> Any:
        keys = (jax.tree_util.GetAttrKey(name) for name in ("indices", "values"))
        return list(zip(keys, (self._held, self.values), strict=True)), self.shape

    @classmethod
    def tree_unflatten(cls, shape: tuple[int, ...], children: Any) -> Self:
        made = object.__new__(cls)
        made._held, made.values = children
        made.shape = shape
        return made


@jax.tree_util.register_pytree_with_keys_class
class RowTotals(RowSlices):
    """Rows in an optimizer state: their indices are plain arrays, for checkpoints.

    Nobody maps over a state as over gradients, so they need no seal.
    """

    _close = _open = staticmethod(lambda indices: indices)


def values_of(leaf: Any) -> Any:
    """The numbers of a gradient leaf: an array, or what is in its rows."""
    return leaf.values if isinstance(leaf, RowSlices) else leaf


def _check(indices: jax.Array, values: jax.Array, shape: tuple[int, ...]) -> None:
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"Row indices must be integers, got {indices.dtype}.")
    if not shape:
        raise ValueError("A table has at least one axis, that of its rows, got shape ().")
    if indices.ndim != 1 or values.shape != (*indices.shape, *shape[1:]):
        raise ValueError(
            f"Of a table of shape {shape}, `indices` must have shape (n,) and `values` "
            f"(n, *{shape[1:]}), got {indices.shape} and {values.shape}."
        )
    check_ids(indices, shape[0])


def check_ids(ids: Any, height: int) -> None:
    """Known ids are rows of the table; traced ones can't be looked at."""
    if isinstance(ids, Tracer):
        return
    known = np.asarray(ids)
    outside = known[(known < 0) | (known >= height)]
    if outside.size:
        raise ValueError(
            f"Row {outside.flat[0]} is outside of a table of {height} rows "
            f"(one of {outside.size} such ids)."
        )


def get_rows(table: jax.Array, indices: jax.Array) -> jax.Array:
    """The rows with these indices; beyond the end, the last one."""
    sharding = _explicit_sharding(table)
    if sharding is not None:  # the rows of a sharded table are whole on every device
        sharding = jax.NamedSharding(sharding.mesh, jax.P(None, *sharding.spec[1:]))
    return table.at[indices].get(mode="clip", out_sharding=sharding)


def set_rows(table: jax.Array, indices: jax.Array, rows: jax.Array) -> jax.Array:
    """The table with these rows; those with an index outside of it are dropped."""
    sharding = _explicit_sharding(table)
    return table.at[indices].set(rows, mode="drop", out_sharding=sharding)


def _explicit_sharding(table: jax.Array) -> jax.NamedSharding | None:
    """The sharding of the table where shardings are part of types, else None."""
    sharding = jax.typeof(table).sharding
    explicit = jax.sharding.AxisType.Explicit in sharding.mesh.axis_types
    return sharding if explicit else None


def unique_rows(ids: jax.Array, height: int) -> jax.Array:
    """The different ids, sorted, padded with ``height``, which also stands for others.

    Sorted twice, which is a quarter of the time of `jnp.unique`, that sorts pairs.
    """
    rows = jnp.sort(_inside(ids, height).astype(jnp.int32))
    again = jnp.concatenate([jnp.zeros(min(len(rows), 1), bool), rows[1:] == rows[:-1]])
    return jnp.sort(jnp.where(again, height, rows))


def _inside(ids: jax.Array, height: int) -> jax.Array:
    """What JAX would count from the end is outside too."""
    return jnp.where((ids < 0) | (ids >= height), height, ids)


def _coalesce(
    indices: jax.Array, values: jax.Array, height: int
) -> tuple[jax.Array, jax.Array]:
    """Sorted, unique, padded; equal rows summed in the order in which they came."""
    indices = _inside(indices, height)
    unique = unique_rows(indices, height)
    slot = jnp.searchsorted(unique, indices)
    # What is outside has no slot: past the end, and dropped.
    slot = jnp.where(indices < height, slot, len(unique))
    return unique, jnp.zeros_like(values).at[slot].add(values, mode="drop")
