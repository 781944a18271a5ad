"""The gradients of a loss on parts of a batch, and their means over devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._axes import names_of, varying_axes
from rmsprop_optax._foundation._dtypes import narrow, wide_dtype
from rmsprop_optax._foundation._trees import is_gradient_leaf, is_leaf
from rmsprop_optax._foundation._types import AxisName, PyTree


class Outcome(NamedTuple):
    """Gradients, loss and aux of a part of a batch, or their means."""

    grads: PyTree
    loss: jax.Array
    aux: PyTree


def local_outcome(
    loss_fn: Callable[..., Any],
    params: PyTree,
    loss_scale: jax.Array,
    batch: PyTree,
    key: Any,
    axis: AxisName,
    *,
    has_aux: bool,
    micro_steps: int,
    value_and_grad: Callable[..., Any],
) -> Outcome:
    """The mean gradients, loss and aux of this device's part of the batch."""
    # With parameters that are the same on all devices JAX would sum their gradients over
    # the devices itself, at each micro-step.
    params = jax.tree.map(lambda p: as_varying(p, axis), params)
    loss_scale = as_varying(loss_scale, axis)
    if key is not None:
        key = jax.random.fold_in(as_varying(key, axis), jax.lax.axis_index(axis))

    def objective(params: PyTree, *args: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        result = loss_fn(params, *args)
        value, aux = result if has_aux else (result, None)
        return value * loss_scale.astype(jnp.result_type(value)), (value, aux)

    def outcome(batch: PyTree, key: Any) -> Outcome:
        args = (batch,) if key is None else (batch, key)
        (_, (value, aux)), grads = value_and_grad(objective, has_aux=True)(params, *args)
        aux = jax.tree.map(_as_float, aux)
        return Outcome(grads, *jax.tree.map(lambda x: as_varying(x, axis), (value, aux)))

    if micro_steps == 1:
        return outcome(batch, key)
    return _mean_over_micro_steps(outcome, batch, key, micro_steps, axis)


def _mean_over_micro_steps(
    outcome: Callable[[PyTree, Any], Outcome],
    batch: PyTree,
    key: Any,
    count: int,
    axis: AxisName,
) -> Outcome:
    """The mean over ``count`` parts of the batch, one after the other."""
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    keys = None if key is None else jax.random.split(key, count)
    first = jax.tree.map(lambda x: x[0], (parts, keys))
    like = jax.eval_shape(outcome, *first)

    def zeros(leaf: Any) -> Any:
        if is_leaf(leaf):
            return None
        return as_varying(jnp.zeros(leaf.shape, wide_dtype(leaf.dtype)), axis)

    def add(totals: PyTree, part: tuple[PyTree, Any]) -> tuple[PyTree, PyTree]:
        new = outcome(*part)
        other = jax.tree.map(
            lambda x: x if is_gradient_leaf(x) else None, new, is_leaf=is_leaf
        )
        dense = jax.tree.map(lambda x: None if is_leaf(x) else x, new, is_leaf=is_leaf)
        return jax.tree.map(jnp.add, totals, dense), other

    start = jax.tree.map(zeros, like, is_leaf=is_leaf)
    totals, stacked = jax.lax.scan(add, start, (parts, keys))

    def mean(leaf: Any, total: Any, rows: Any) -> Any:
        if leaf is None:
            return None
        if is_gradient_leaf(leaf):
            return rows.map_values(lambda values: values / count).sum_stacked()
        return narrow(total / count, leaf.dtype)

    return jax.tree.map(mean, like, totals, stacked, is_leaf=is_leaf)


def mean_over_devices(leaf: Any, axis: AxisName, dim: int | None = None) -> Any:
    """The mean of a leaf over the devices, whole or this device's part along ``dim``."""
    if is_gradient_leaf(leaf):
        return leaf.mean_over_devices(axis)
    if dim is None:
        return jax.lax.pmean(leaf, axis)
    # One axis name after the other: over both dimensions of a torus at once, XLA for TPU
    # reduces the whole array and cuts it then.
    for name in names_of(axis):
        leaf = jax.lax.psum_scatter(leaf, name, scatter_dimension=dim, tiled=True)
    return leaf / jax.lax.axis_size(axis)


def as_varying(x: Any, axis: AxisName) -> Any:
    """``x`` with a type that may differ between the devices."""
    missing = tuple(name for name in names_of(axis) if not varying_axes(x, (name,)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def _as_float(x: Any) -> jax.Array:
    """A count or a flag as a number that has a mean."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)
