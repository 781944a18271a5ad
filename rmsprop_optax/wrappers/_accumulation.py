"""Gradient accumulation: the mean of k gradients, one update."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._trees import is_leaf, path_of
from rmsprop_optax._foundation._types import Count, PyTree
from rmsprop_optax._foundation._validation import check_rows, check_whole_number
from rmsprop_optax.leaves import (
    add_leaves,
    as_gradient,
    empty_rows,
    init_moment,
    leaf_dtype,
    map_values,
    narrow,
)
from rmsprop_optax.wrappers._gate import make_or_hold


class AccumulateGradientsState(NamedTuple):
    """State of [`accumulate_gradients`][rmsprop_optax.accumulate_gradients].

    Attributes:
      count: Micro-steps since the last update, int32, from 0 to ``every_k - 1``.
      acc_grads: The sum of the gradients since then, in the parameter's dtype or
        float32, whichever is wider; exactly zero after an update. For tables that come
        by rows, the union of the rows so far.
      inner_state: The state of the transformation inside, which moves at updates only.
    """

    count: jax.Array
    acc_grads: PyTree
    inner_state: PyTree


def accumulate_gradients(
    inner: optax.GradientTransformation,
    every_k: Count,
    rows: Mapping[str, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs ``inner`` once every k calls, on the mean of the k gradients.

    The calls between are an addition and return zero updates. `optax.MultiSteps` runs
    ``inner`` at each of them and multiplies by 0, so that one infinite gradient leaves
    its accumulator NaN for ever; here the accumulator is exactly zero after each update.

    Args:
      inner: The transformation. Everything in it moves with updates, not with calls.
      every_k: Calls to an update, at least 2.
      rows: For each table whose gradient comes as
        [`RowSlices`][rmsprop_optax.sparse.RowSlices], by its path, such as
        ``encoder/embedding``: how many rows the k calls touch together at the most, for
        which memory is set aside. k times the ids of a call is always enough; more than
        there is room for make the update NaN.

    Returns:
      A transformation. Extra arguments go to ``inner``, of the k-th call only.

    Raises:
      ValueError: For ``every_k`` less than 2, a path in ``rows`` that is no table, and
        at the first trace for a gradient by rows whose path is not there.
      TypeError: For ``every_k`` that is not an integer.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.accumulate_gradients(optax.scale(-1.0), every_k=2)
      >>> state = tx.init(jnp.array(0.0))
      >>> for gradient in (1.0, 3.0):
      ...     update, state = tx.update(jnp.array(gradient), state)
      ...     print(update)
      0.0
      -2.0

    References:
      Keras 3, `gradient_accumulation_steps`.
    """
    check_whole_number("every_k", every_k, least=2)
    rooms = dict(rows or {})
    inner = optax.with_extra_args_support(inner)

    def _mean(g: Any, total: Any) -> Any:
        if g is None:
            return None
        dtype = leaf_dtype(g)
        total = as_gradient(total)
        return map_values(lambda values: narrow(values / every_k, dtype), total)

    def init_fn(params: PyTree) -> AccumulateGradientsState:
        return AccumulateGradientsState(
            count=jnp.zeros([], jnp.int32),
            acc_grads=_init_total(params, rooms),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, AccumulateGradientsState]:
        emits = state.count + 1 >= every_k

        def make(total: PyTree, inner_state: PyTree) -> tuple[PyTree, PyTree]:
            mean = jax.tree.map(_mean, updates, total, is_leaf=is_leaf)
            return inner.update(mean, inner_state, params, **extra_args)

        total = add_leaves(updates, state.acc_grads)
        made, left, inner_state = make_or_hold(emits, make, total, state.inner_state)
        count = jnp.where(emits, 0, state.count + 1).astype(jnp.int32)
        return made, AccumulateGradientsState(count, left, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _init_total(params: PyTree, rooms: dict[str, int]) -> PyTree:
    """Zeros for each parameter; for a table that comes by rows, room for some of them."""
    check_rows(rooms, params)

    def init_leaf(path: tuple[Any, ...], zeros: Any) -> Any:
        room = rooms.get(path_of(path))
        return zeros if room is None else empty_rows(zeros, room, zeros.dtype)

    # Not made dense first: under `jit` nothing is, and `init` is worth a jit for tables.
    return jax.tree_util.tree_map_with_path(init_leaf, init_moment(params))
