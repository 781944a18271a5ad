"""The gradients of a loss on parts of a batch, and their means over devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._axes import names_of, varying_axes
from rmsprop_optax._foundation._dtypes import divided, narrow, wide_dtype
from rmsprop_optax._foundation._trees import is_gradient_leaf, is_leaf
from rmsprop_optax._foundation._types import AxisName, PyTree
from rmsprop_optax.parallel._loss_terms import Aux


class Outcome(NamedTuple):
    """Gradients, loss, weight and aux of a part of a batch, or their means and sums.

    Of a weighted loss, gradients and loss are those of a sum over examples: the mean over
    all of them is the mean of the parts' sums, divided by the mean of their weights. Of
    another loss the weight is None.
    """

    grads: PyTree
    loss: jax.Array
    weight: jax.Array | None
    aux: Aux


def local_outcome(
    terms_of: Callable[..., Any],
    params: PyTree,
    loss_scale: jax.Array,
    batch: PyTree,
    key: Any,
    axis: AxisName,
    *,
    micro_steps: int,
    value_and_grad: Callable[..., Any],
) -> Outcome:
    """What the loss gives for this device's part of the batch.

    ``terms_of`` is a loss that returns its value, its weight and its `Aux`.
    """
    # With parameters that are the same on all devices JAX would sum their gradients over
    # the devices itself, at each micro-step.
    params = jax.tree.map(lambda p: as_varying(p, axis), params)
    loss_scale = as_varying(loss_scale, axis)
    if key is not None:
        key = jax.random.fold_in(as_varying(key, axis), jax.lax.axis_index(axis))

    def objective(params: PyTree, *args: Any) -> tuple[jax.Array, tuple[Any, ...]]:
        value, weight, aux = terms_of(params, *args)
        return value * loss_scale.astype(jnp.result_type(value)), (value, weight, aux)

    def outcome(batch: PyTree, key: Any) -> Outcome:
        args = (batch,) if key is None else (batch, key)
        (_, terms), grads = value_and_grad(objective, has_aux=True)(params, *args)
        return Outcome(grads, *jax.tree.map(lambda x: as_varying(x, axis), terms))

    if micro_steps == 1:
        return outcome(batch, key)
    return _over_micro_steps(outcome, batch, key, micro_steps, axis)


def _over_micro_steps(
    outcome: Callable[[PyTree, Any], Outcome],
    batch: PyTree,
    key: Any,
    count: int,
    axis: AxisName,
) -> Outcome:
    """That of ``count`` parts of the batch, one after the other."""
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    keys = None if key is None else jax.random.split(key, count)
    first = jax.tree.map(lambda x: x[0], (parts, keys))
    like = jax.eval_shape(outcome, *first)

    def added(new: Outcome) -> Outcome:
        dense = jax.tree.map(
            lambda g: None if is_leaf(g) else g, new.grads, is_leaf=is_leaf
        )
        return new._replace(grads=dense, aux=new.aux._replace(none=None))

    def zeros(leaf: Any) -> jax.Array:
        is_count = not jnp.issubdtype(leaf.dtype, jnp.inexact)
        dtype = leaf.dtype if is_count else wide_dtype(leaf.dtype)
        return as_varying(jnp.zeros(leaf.shape, dtype), axis)

    def add(totals: Outcome, part: tuple[PyTree, Any]) -> tuple[Outcome, Any]:
        new = outcome(*part)
        rows = jax.tree.map(
            lambda g: g if is_gradient_leaf(g) else None, new.grads, is_leaf=is_leaf
        )
        return jax.tree.map(jnp.add, totals, added(new)), (rows, new.aux.none)

    start = jax.tree.map(zeros, added(like))
    totals, (rows, examples) = jax.lax.scan(add, start, (parts, keys))

    def mean(leaf: Any, total: Any, rows: Any = None) -> Any:
        if leaf is None:
            return None
        if is_gradient_leaf(leaf):
            return rows.map_values(lambda x: divided(x, count)).sum_stacked()
        return narrow(divided(total, count), leaf.dtype)

    grads = jax.tree.map(mean, like.grads, totals.grads, rows, is_leaf=is_leaf)
    means = like.loss, like.weight, like.aux.mean
    loss, weight, aux = jax.tree.map(
        mean, means, (totals.loss, totals.weight, totals.aux.mean)
    )
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), examples)
    return Outcome(grads, loss, weight, Aux(aux, totals.aux.sum, flat))


def mean_over_devices(leaf: Any, axis: AxisName, dim: int | None = None) -> Any:
    """The mean of a leaf over the devices, whole or this device's part along ``dim``."""
    if leaf is None:
        return None
    if is_gradient_leaf(leaf):
        return leaf.mean_over_devices(axis)
    if dim is None:
        return divided(jax.lax.psum(leaf, axis), jax.lax.axis_size(axis))
    # One axis name after the other: over both dimensions of a torus at once, XLA for TPU
    # reduces the whole array and cuts it then.
    for name in names_of(axis):
        leaf = jax.lax.psum_scatter(leaf, name, scatter_dimension=dim, tiled=True)
    return divided(leaf, jax.lax.axis_size(axis))


def as_varying(x: Any, axis: AxisName) -> Any:
    """``x`` with a type that may differ between the devices."""
    missing = tuple(name for name in names_of(axis) if not varying_axes(x, (name,)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x
