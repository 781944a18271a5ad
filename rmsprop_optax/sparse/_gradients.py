"""A loss and its gradients, those of its tables by rows."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._row_slices import (
    RowSlices,
    check_ids,
    get_rows,
    unique_rows,
)
from rmsprop_optax._foundation._trees import leaves_with_paths, path_of
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.sparse._lookup import TableView


def value_and_grad(
    loss_fn: Callable[..., Any],
    ids: Callable[..., Mapping[str, Any]],
    has_aux: bool = False,
) -> Callable[..., tuple[Any, PyTree]]:
    """`jax.value_and_grad` with the gradients of tables by rows.

    The rows that the step needs are gathered first, the loss is differentiated with
    respect to those, and looks its ids up among them: no gradient as large as a table is
    ever made. Inside, the loss may `vmap`, `scan`, `cond` and look up as often as it
    likes. Values and gradients are those of `jax.value_and_grad`, to the bit.

    Args:
      loss_fn: A scalar loss of the parameters (its first argument) and of others, that
        reads its tables by [`lookup`][rmsprop_optax.sparse.lookup] only.
      ids: A function of the same arguments that announces what will be looked up: from
        the path of each table (``encoder/embedding``; where the parameters are one
        table, ``<the root>``) to its ids, integers of any shape, an array or several.
        More ids than are looked up cost room; an id that is looked up and not announced
        makes the loss NaN. A table whose path is not there gets a dense gradient.
      has_aux: Whether the loss returns something else beside its value.

    Returns:
      A function of the arguments of ``loss_fn`` that returns ``(value, grads)``, or
      ``((value, aux), grads)``. ``grads`` has the tree of the parameters, with
      [`RowSlices`][rmsprop_optax.sparse.RowSlices] in the place of each table, in as many
      rows as there are ids.

    Raises:
      ValueError: For a path that is no table, or known ids outside of it.
      TypeError: For ids that are not integers, or a table used otherwise than by
        `lookup`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import sparse
      >>> def loss_fn(params, words):
      ...     return jnp.sum(sparse.lookup(params["embedding"], words) ** 2)
      >>> def ids(params, words):
      ...     return {"embedding": words}
      >>> grad_fn = sparse.value_and_grad(loss_fn, ids)
      >>> value, grads = grad_fn({"embedding": jnp.ones((1000, 2))}, jnp.array([7, 3, 7]))
      >>> print(value, grads["embedding"])
      6.0 RowSlices(2 of 1000 rows (1 free), row shape (2,), float32, indices [3 7])
    """

    def value_and_grad_fn(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        wanted = ids(params, *args, **kwargs)
        rows_of = _row_ids(params, wanted)

        def gather(path: tuple[Any, ...], leaf: Any) -> Any:
            rows = rows_of.get(path_of(path))
            return leaf if rows is None else get_rows(leaf, rows)

        def loss_of_rows(gathered: PyTree) -> Any:
            return loss_fn(_views(gathered, rows_of, params), *args, **kwargs)

        gathered = jax.tree_util.tree_map_with_path(gather, params)
        value, grads = jax.value_and_grad(loss_of_rows, has_aux=has_aux)(gathered)
        return value, _row_slices(grads, rows_of, params)

    return value_and_grad_fn


def _row_ids(params: PyTree, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The unique ids of each table, sorted, and padded with its height."""
    tables = {path: leaf for path, leaf in leaves_with_paths(params) if leaf is not None}
    made = {}
    for path, tree in wanted.items():
        if path not in tables or not jnp.shape(tables[path]):
            raise ValueError(
                f"`ids` names '{path}', which is not a parameter with rows. Parameters "
                f"are {list(tables)}."
            )
        height = tables[path].shape[0]
        some = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        for leaf in some:
            if not jnp.issubdtype(leaf.dtype, jnp.integer):
                raise TypeError(
                    f"The ids of '{path}' must be integers, got {leaf.dtype}."
                )
            check_ids(leaf, height)
        flat = jnp.concatenate([jnp.zeros(0, jnp.int32), *(x.ravel() for x in some)])
        made[path] = unique_rows(flat, height)
    return made


def _views(gathered: PyTree, rows_of: dict[str, jax.Array], params: PyTree) -> PyTree:
    def view(path: tuple[Any, ...], rows: Any, table: Any) -> Any:
        indices = rows_of.get(path_of(path))
        return rows if indices is None else TableView(indices, rows, table.shape)

    return jax.tree_util.tree_map_with_path(view, gathered, params)


def _row_slices(grads: PyTree, rows_of: dict[str, jax.Array], params: PyTree) -> PyTree:
    def by_rows(path: tuple[Any, ...], g: Any, table: Any) -> Any:
        indices = rows_of.get(path_of(path))
        return g if indices is None else RowSlices.trusted(indices, g, table.shape)

    return jax.tree_util.tree_map_with_path(by_rows, grads, params)
