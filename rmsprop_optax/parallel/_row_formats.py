"""The layouts in which a step by rows copies no table, and the warning where it does."""

import math
import warnings
from collections.abc import Collection
from typing import Any

import jax
import optax
from jax.experimental.layout import Format, Layout  # noqa: TID251
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rmsprop_optax._foundation._axes import axis_size, check_mesh
from rmsprop_optax._foundation._checks import check_names, check_transformation
from rmsprop_optax._foundation._state_leaves import owners_of
from rmsprop_optax._foundation._trees import (
    Keys,
    eval_shape,
    is_gradient_leaf,
    is_leaf,
    leaves_with_keys,
    map_with_keys,
    path_of,
)
from rmsprop_optax._foundation._types import AxisName, PyTree
from rmsprop_optax.parallel._state_sharding import shardings_like, spec_on

# A platform that keeps the columns of an array in one piece unless they are a multiple of
# so many.
COLUMNS = {"tpu": 128}


def row_formats(
    tx: optax.GradientTransformation,
    params: PyTree,
    tables: Collection[str],
    mesh: Mesh,
    axis_name: AxisName | None = None,
) -> tuple[PyTree, PyTree]:
    """Formats for parameters and state that keep each row of a table in one piece.

    A TPU stores a table by columns unless these are a multiple of 128, and a step by rows
    copies it and each of its moments there and back. In row-major layout a step moves
    the touched rows alone; each row is padded to a multiple of 128 columns. On other
    devices row-major is the default.

    A table and the arrays of the state that belong to it and have its shape (moments,
    averages, codes) get the layout. All others (scales, counts) keep their default.

    The steps of [`data_parallel`][rmsprop_optax.parallel.data_parallel] and
    `sharded_data_parallel` keep the formats of the parameters and the state of the first
    call. A step of your own takes them as ``in_shardings`` and ``out_shardings``.

    Args:
      tx: The transformation, any of Optax's or of this library's.
      params: The parameters: arrays, or shapes and dtypes (`jax.eval_shape`).
      tables: The paths of the tables, as in
        [`sparse.value_and_grad`][rmsprop_optax.sparse.value_and_grad].
      mesh: The devices; parameters keep their sharding over it.
      axis_name: The axis (or axes) that the state is split over, as
        [`state_sharding`][rmsprop_optax.parallel.state_sharding] splits it; None: the
        state is sharded as its parameters are.

    Returns:
      A tree of `jax.experimental.layout.Format` and `jax.NamedSharding` like ``params``,
      and one like ``tx.init(params)``: for `jax.device_put`, or `jax.jit`.

    Raises:
      ValueError: For a path that is not that of a parameter with rows.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from rmsprop_optax import parallel, rmsprop
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> params = {"embedding": jnp.ones((1000, 64)), "kernel": jnp.ones((64, 4))}
      >>> tx = rmsprop(momentum=0.9)
      >>> formats = parallel.row_formats(tx, params, ["embedding"], mesh)
      >>> params = jax.device_put(params, formats[0])
      >>> opt_state = jax.jit(tx.init, out_shardings=formats[1])(params)
      >>> print(params["embedding"].format.layout.major_to_minor)
      (0, 1)
    """
    check_transformation("tx", tx)
    check_mesh(mesh)
    if axis_name is not None:
        axis_size(mesh, axis_name)
    tables = check_names("tables", tables)
    known = leaves_with_keys(params, is_leaf=None)
    chosen = _shapes_of(tables, known)
    shapes = eval_shape(tx.init, params)
    leaves, structure = jax.tree.flatten(shapes)
    owners = owners_of(tx.init, params, shapes)
    shardings = jax.tree.leaves(shardings_like(tx, params, mesh, axis_name))
    state = [
        _by_rows(sharding, leaf.shape)
        if owner is not None and chosen.get(owner.keys) == leaf.shape
        else sharding
        for leaf, owner, sharding in zip(leaves, owners, shardings, strict=True)
    ]

    def of_param(keys: Keys, p: Any) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec(*spec_on(mesh, p)))
        return _by_rows(sharding, p.shape) if keys in chosen else sharding

    return map_with_keys(of_param, params), structure.unflatten(state)


def _by_rows(sharding: NamedSharding, shape: tuple[int, ...]) -> Format:
    return Format(Layout(tuple(range(len(shape)))), sharding)


def _shapes_of(
    tables: Collection[str], known: list[tuple[Keys, Any]]
) -> dict[Keys, tuple[int, ...]]:
    """The shape of each table, by its keys."""
    with_rows = [(keys, p.shape) for keys, p in known if len(p.shape) > 1]
    paths = [path_of(keys) for keys, _ in with_rows]
    unknown = [path for path in tables if path not in paths]
    if unknown:
        raise ValueError(
            f"`tables` must be paths of parameters with rows, got {tables!r}. "
            f"Parameters with rows are {paths}."
        )
    return {k: shape for k, shape in with_rows if path_of(k) in tables}


def format_of(x: Any) -> Any:
    """The format of an array or a shape; its sharding if it has no format, as a key."""
    return getattr(x, "format", x.sharding)


def stored_by_columns(params: PyTree, mesh: Mesh) -> frozenset[Keys]:
    """Parameters whose rows are not in one piece, by their layout, or by the default."""
    unit = COLUMNS.get(mesh.devices.flat[0].platform, 1)

    def by_columns(p: Any) -> bool:
        layout = getattr(format_of(p), "layout", None)
        if layout is None:
            return math.prod(p.shape[1:]) % unit > 0
        return unit > 1 and layout.major_to_minor[:1] > (0,)

    known = leaves_with_keys(params, is_leaf=None)
    return frozenset(keys for keys, p in known if by_columns(p))


def warn_of_copies(grads: PyTree, by_columns: Collection[Keys]) -> None:
    """A warning that names the tables that a step by rows copies."""
    tables = [
        path_of(keys)
        for keys, g in leaves_with_keys(grads, is_leaf=is_leaf)
        if is_gradient_leaf(g) and keys in by_columns
    ]
    if tables:
        warnings.warn(
            f"The tables {tables} are stored by columns, so each step copies them and "
            "their moments there and back. Give them a multiple of 128 columns, or place "
            "parameters and state by rows: `parallel.row_formats(tx, params, "
            f"{tables}, mesh)`.",
            stacklevel=2,
        )
