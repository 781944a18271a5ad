"""Lazy updates: any transformation, on the rows of a table that a gradient touches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._missing_gradients import (
    checked_inner,
    no_gradient,
    no_rows,
    no_weights,
    shapes_of,
)
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._state_leaves import Init, Owner, owners_of
from rmsprop_optax._foundation._trees import (
    Keys,
    is_leaf,
    leaves_with_keys,
    map_with_keys,
    path_of,
)
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.sparse._row_slices import RowSlices
from rmsprop_optax.sparse._tables import get_rows, set_rows
from rmsprop_optax.wrappers._precision import keep_types


@recorded
def lazy(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Lets any transformation take gradients with `RowSlices` in them.

    The touched rows of the parameter, and of every array of the state that belongs to
    it, are gathered. ``inner`` updates these rows as dense arrays, and they are scattered
    back. All other rows keep their parameter and their moments. All rows share counts and
    schedules. So `optax.adam` becomes a lazy Adam.

    A leaf whose gradient is None has no touched rows: its moments do not change, and its
    parameter, which may be of any type, is not used.

    `rmsprop` and the dialects do this themselves. Gradient accumulation goes around:
    ``accumulate_gradients(sparse.lazy(tx), k, sparse.RowSums(...))``.

    Args:
      inner: Any transformation whose state keeps separate values for each row of a
        table: arrays with the rows of the parameter along their first axis, or of one
        number a row, in a tree that `optax.tree.map_params` finds. The new values of a
        row are computed from the gradient of that row, at each call: a transformation
        that adds gradients up over several calls can't be lazy, and those that are known
        are refused.

    Returns:
      A transformation with the state of ``inner``. Updates of a table are `RowSlices`,
      for `optax.apply_updates`. Extra arguments go to ``inner``, and one is added:
      ``where``, a tree like the updates, of boolean arrays that are False in the padding
      of rows. What ``inner`` computes over a whole leaf sees zeros there; a mean over a
      leaf (such as `optax.clip_by_block_rms`) counts them, unless it reads ``where``.

    Raises:
      ValueError: At the first trace with rows, for a state that can't be split by rows,
        such as the factored moments of `optax.adafactor`, or that adds up over calls,
        such as that of `optax.apply_every`. The message names its path.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_optax import sparse
      >>> tx = sparse.lazy(optax.adam(0.1))
      >>> params = {"table": jnp.ones((1000, 2)), "w": jnp.ones(2)}
      >>> state = tx.init(params)
      >>> rows = sparse.RowSlices(jnp.array([3, 7]), jnp.ones((2, 2)), (1000, 2))
      >>> updates, state = tx.update({"table": rows, "w": jnp.ones(2)}, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(params["table"][2:4].round(4))
      [[1.  1. ]
       [0.9 0.9]]

    References:
      TensorFlow, `IndexedSlices` and `tfa.optimizers.LazyAdam`; PyTorch,
      `torch.optim.SparseAdam`.
    """
    inner_init, inner_update = checked_inner(inner)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        grads = [g for _, g in leaves_with_keys(updates)]
        if not any(g is None or isinstance(g, RowSlices) for g in grads):
            new, new_state = inner_update(updates, state, params, **extra_args)
            return new, keep_types(state, new_state)
        cuts = _cuts(inner_init, state, updates)
        leaves, treedef = jax.tree.flatten(state)
        moments = [(cut.owner, x) for cut, x in zip(cuts, leaves, strict=True)]
        shapes = shapes_of(params, moments)
        weights = params
        if params is not None:
            weights = jax.tree.map(_take_param, updates, params, is_leaf=is_leaf)
        dense = map_with_keys(
            lambda keys, g: _dense(g, shapes.get(keys)), updates, is_leaf=is_leaf
        )
        if any(isinstance(g, RowSlices) for g in grads):
            extra_args["where"] = jax.tree.map(_where, updates, dense, is_leaf=is_leaf)
        rows = [cut.take(x) for cut, x in zip(cuts, leaves, strict=True)]
        touched = treedef.unflatten(rows)
        new, new_rows = inner_update(dense, touched, weights, **extra_args)
        new_rows = treedef.flatten_up_to(keep_types(touched, new_rows))
        changed = zip(cuts, leaves, new_rows, strict=True)
        state = treedef.unflatten([cut.put(x, new_x) for cut, x, new_x in changed])
        return jax.tree.map(_as_rows, updates, new, is_leaf=is_leaf), state

    return check_states(optax.GradientTransformationExtraArgs(inner_init, update_fn))


class _Cut(NamedTuple):
    """How an array of the state is cut: by the rows of a gradient, to none, or not.

    Attributes:
      owner: The parameter that it belongs to; None: the array is used whole.
      g: The gradient of that parameter: `RowSlices`, or None for no gradient.
    """

    owner: Owner | None
    g: RowSlices | None

    def take(self, x: Any) -> Any:
        """The rows that are touched. In the padding nothing divides by zero."""
        if self.owner is None:
            return x
        if self.g is None:
            return no_rows(x, self.owner)
        fill = 1 if self.owner.part.holds == "second_moment" else 0
        return get_rows(jnp.asarray(x), self.g.indices, fill)

    def put(self, x: Any, rows: Any) -> Any:
        """The array with new rows."""
        if self.owner is None:
            return rows
        if self.g is None:
            return x
        return set_rows(jnp.asarray(x), self.g.indices, rows)


def _cuts(inner_init: Init, state: PyTree, updates: PyTree) -> list[_Cut]:
    grads, cuts = dict(leaves_with_keys(updates)), []
    leaves = leaves_with_keys(state, is_leaf=None)
    for (keys, leaf), owner in zip(
        leaves, owners_of(inner_init, updates, state), strict=True
    ):
        shape, g = jnp.shape(leaf), None if owner is None else grads[owner.keys]
        if owner is not None and isinstance(g, RowSlices) and shape:
            _check_rows(keys, owner, shape, g)
        elif g is not None:  # a dense gradient, or one number for a whole table
            owner, g = None, None
        cuts.append(_Cut(owner, g))
    return cuts


def _check_rows(keys: Keys, owner: Owner, shape: tuple[int, ...], g: RowSlices) -> None:
    if owner.part.holds == "sum":
        raise ValueError(
            f"Gradient '{path_of(owner.keys)}' comes by rows, and the state "
            f"'{path_of(keys)}' adds gradients up over several calls, which touch other "
            "rows each: accumulate around `lazy`, as in `accumulate_gradients("
            "sparse.lazy(tx), k, sparse.RowSums(...))`."
        )
    rows, *others = g.shape
    # One number a row, unless it could as well be one a column.
    is_one = len(shape) == 1 and rows not in others
    if shape[0] != rows or not (is_one or len(shape) == len(g.shape)):
        raise ValueError(
            f"Gradient '{path_of(owner.keys)}' comes by rows and has shape {g.shape}. "
            f"The state '{path_of(keys)}' of shape {shape} can't be cut by these rows. "
            "Give that parameter another transformation with `optax.partition`, or a "
            "dense gradient (`to_dense()`). If it is an 8-bit moment of a table with one "
            "number a row, its blocks reach over rows: exclude the table with "
            f"`MomentStorage(..., exclude=lambda path, param: path == "
            f"'{path_of(owner.keys)}')`."
        )


def _take_param(g: Any, p: Any) -> Any:
    if g is None:
        return no_weights(p)
    if not isinstance(g, RowSlices):
        return p
    if jnp.shape(p) != g.shape:
        raise ValueError(
            f"{g!r} is the gradient of a table of shape {g.shape}, and the parameter has "
            f"shape {jnp.shape(p)}."
        )
    return get_rows(jnp.asarray(p), g.indices)


def _dense(g: Any, shape: tuple[int, ...] | None) -> Any:
    """What ``inner`` sees of a gradient: an array, of no rows where there is none."""
    if isinstance(g, RowSlices):
        return g.values
    return no_gradient(shape) if g is None else g


def _where(g: Any, dense: Any) -> Any:
    if not isinstance(g, RowSlices):
        return None if dense is None else jnp.ones((1,) * jnp.ndim(dense), bool)
    return _inside(g)


def _inside(g: RowSlices) -> jax.Array:
    """False in the padding."""
    return (g.indices < g.shape[0]).reshape(-1, *[1] * (len(g.shape) - 1))


def _as_rows(g: Any, update: Any) -> Any:
    if isinstance(g, RowSlices):
        return g.with_values(jnp.where(_inside(g), update, 0))
    return None if g is None else update
