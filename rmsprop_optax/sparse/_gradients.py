"""A loss and its gradients, those of its tables by rows."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._checks import (
    check_flag,
    check_function,
    check_mapping,
    check_whole_number,
)
from rmsprop_optax._foundation._trees import (
    Keys,
    is_inexact,
    is_leaf,
    leaves_with_keys,
    map_with_keys,
    path_of,
)
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.sparse._lookup import TableView
from rmsprop_optax.sparse._row_slices import RowSlices
from rmsprop_optax.sparse._tables import (
    as_ids,
    get_rows,
    replicated,
    sum_rows,
    unique_rows,
)


def value_and_grad(
    loss_fn: Callable[..., Any],
    ids: Callable[..., Mapping[str, Any]],
    has_aux: bool = False,
    padding_idx: Mapping[str, int] | None = None,
) -> Callable[..., tuple[Any, PyTree]]:
    """`jax.value_and_grad` with the gradients of tables by rows.

    The rows that the step needs are gathered first. The loss is differentiated with
    respect to them and looks its ids up among them, so no array as large as a table is
    computed. The loss may `vmap`, `scan`, `cond` and look up as often as it likes. Values
    and gradients are those of `jax.value_and_grad`, to the bit.

    Args:
      loss_fn: A scalar loss. Its first argument is the parameters; it may take others. It
        reads its tables only by [`lookup`][rmsprop_optax.sparse.lookup]. The parameters
        may be a whole Equinox model: a leaf that is not a floating-point array gets None.
      ids: A function of the same arguments that announces which ids will be looked up. It
        returns a mapping from the path of each table (``encoder/embedding``; or
        ``<the root>`` if the parameters are one table) to its ids: one or several integer
        arrays of any shape. Extra ids cost time; an id that is looked up but not
        announced makes the loss NaN. A table that is not in the mapping gets a dense
        gradient.
      has_aux: Whether the loss returns something else beside its value.
      padding_idx: A mapping from the path of a table to an id that stands for no word:
        `lookup` returns its row, which gets no gradient and never moves, as in PyTorch's
        `nn.Embedding`.

    Returns:
      A function of the arguments of ``loss_fn`` that returns ``(value, grads)``, or
      ``((value, aux), grads)``. ``grads`` has the tree of the parameters, with
      [`RowSlices`][rmsprop_optax.sparse.RowSlices] in the place of each table, in as many
      rows as there are ids.

    Raises:
      ValueError: For a path that is not that of a table, or is that of two tables; for
        known ids outside a table.
      TypeError: For ids that are not integers, a table used otherwise than by
        `lookup`, or an NNX module with statistics or random states beside its `Param`s.

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
    check_function("loss_fn", loss_fn)
    check_function("ids", ids)
    check_flag("has_aux", has_aux)
    padding = {} if padding_idx is None else padding_idx
    check_mapping("padding_idx", padding, partial(check_whole_number, least=0))

    def value_and_grad_fn(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        _check_nothing_is_lost(params)
        rows_of = _row_ids(params, ids(params, *args, **kwargs))
        _check_padding(padding, params, rows_of)

        def gather(keys: Keys, leaf: Any) -> Any:
            return get_rows(leaf, rows_of[keys]) if keys in rows_of else leaf

        def view(keys: Keys, x: Any, leaf: Any) -> Any:
            return TableView(rows_of[keys], x, leaf.shape) if keys in rows_of else x

        def as_rows(keys: Keys, g: Any, leaf: Any) -> Any:
            if keys not in rows_of:
                return g
            rows, height = rows_of[keys], leaf.shape[0]
            free = padding.get(path_of(keys))
            if free is not None:
                rows, g = sum_rows(jnp.where(rows == free, height, rows), g, height)
            return RowSlices.from_sorted(rows, g, leaf.shape)

        leaves, structure = jax.tree.flatten(map_with_keys(gather, params))
        trained = {i: leaf for i, leaf in enumerate(leaves) if is_inexact(leaf)}

        def loss_of_trained(trained: dict[int, Any]) -> Any:
            new = [trained.get(i, leaf) for i, leaf in enumerate(leaves)]
            views = map_with_keys(view, structure.unflatten(new), params)
            return loss_fn(views, *args, **kwargs)

        value, grads = jax.value_and_grad(loss_of_trained, has_aux=has_aux)(trained)
        all_grads = structure.unflatten([grads.get(i) for i in range(len(leaves))])
        return value, map_with_keys(as_rows, all_grads, params, is_leaf=is_leaf)

    return value_and_grad_fn


def _check_nothing_is_lost(params: PyTree) -> None:
    """No NNX Variable that a loss changes, such as the statistics of a norm.

    The loss gets copies here, so that it would change those.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return
    changed = (nnx.BatchStat, nnx.Cache, nnx.Intermediate, nnx.RngState)
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nnx.Variable))
    kinds = sorted({type(x).__name__ for x in leaves if isinstance(x, changed)})
    if kinds:
        raise TypeError(
            f"The parameters hold NNX's {', '.join(kinds)}, which the loss changes, and "
            "here it would change a copy. Split the model, `graphdef, params, rest = "
            "nnx.split(model, nnx.Param, ...)`, merge it in the loss with `copy=True`, "
            "and return the rest as aux: see the guide on modules."
        )


def _check_padding(
    padding: Mapping[str, int], params: PyTree, rows_of: dict[Keys, jax.Array]
) -> None:
    leaves = leaves_with_keys(params)
    heights = {path_of(keys): x.shape[0] for keys, x in leaves if keys in rows_of}
    unknown = [path for path in padding if path not in heights]
    if unknown:
        raise ValueError(
            f"`padding_idx` names {unknown}, and `ids` announces ids of {list(heights)}."
        )
    for path, free in padding.items():
        as_ids(np.asarray(free), heights[path], f"`padding_idx['{path}']`")


def _row_ids(params: PyTree, wanted: Mapping[str, Any]) -> dict[Keys, jax.Array]:
    """The unique ids of each table, sorted, and padded with its height."""
    tables = {}
    for keys, leaf in leaves_with_keys(params):
        if getattr(leaf, "shape", ()):
            tables.setdefault(path_of(keys), []).append((keys, leaf))
    found = {}
    for path, tree in wanted.items():
        if len(tables.get(path, [])) != 1:
            what = "two parameters" if path in tables else "not a parameter with rows"
            raise ValueError(
                f"`ids` names '{path}', which is {what}. Parameters with rows are "
                f"{list(tables)}."
            )
        ((keys, table),) = tables[path]
        height = table.shape[0]
        some = [
            replicated(as_ids(leaf, height, f"The ids of '{path}'"))
            for leaf in jax.tree.leaves(tree)
        ]
        flat = jnp.concatenate([jnp.zeros(0, jnp.int32), *(x.ravel() for x in some)])
        found[keys] = unique_rows(flat, height)
    return found
