"""What a device computes of its part of a batch, and the means over all devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._axes import names_of
from rmsprop_optax._foundation._dtypes import wide_dtype
from rmsprop_optax._foundation._row_slices import RowSlices
from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import AxisName, PyTree
from rmsprop_optax.leaves import narrow
from rmsprop_optax.transforms._loss_scale import scale_loss


class Loss(NamedTuple):
    """A loss, and how it is differentiated.

    Attributes:
      loss_fn: ``loss_fn(params, batch)``, or with a key behind, to a scalar.
      has_aux: Whether it returns something beside.
      micro_steps: Into how many parts a device cuts its part of the batch.
      value_and_grad: `jax.value_and_grad`, or something like it.
    """

    loss_fn: Callable[..., Any]
    has_aux: bool
    micro_steps: int
    value_and_grad: Callable[..., Any]


class Outcome(NamedTuple):
    """What comes of a part of a batch, or of all of it: sums or means."""

    grads: PyTree
    loss: jax.Array
    aux: PyTree


def local_outcome(
    loss: Loss, params: PyTree, opt_state: PyTree, batch: PyTree, key: Any, axis: AxisName
) -> Outcome:
    """The mean gradients, loss and aux of this device's part of the batch."""
    # Parameters that are the same everywhere would have their gradients summed over
    # the devices by JAX itself, at each micro-step, and not by their mean.
    params = jax.tree.map(lambda p: _varying(p, axis), params)
    if key is not None:
        key = jax.random.fold_in(_varying(key, axis), jax.lax.axis_index(axis))

    def objective(params: PyTree, *args: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        found = loss.loss_fn(params, *args)
        value, aux = found if loss.has_aux else (found, None)
        return scale_loss(value, opt_state), (value, aux)

    def outcome(batch: PyTree, key: Any) -> Outcome:
        args = (batch,) if key is None else (batch, key)
        (_, (value, aux)), grads = loss.value_and_grad(objective, has_aux=True)(
            params, *args
        )
        aux = jax.tree.map(_as_float, aux)
        return Outcome(grads, *jax.tree.map(lambda x: _varying(x, axis), (value, aux)))

    if loss.micro_steps == 1:
        return outcome(batch, key)
    return _accumulated(outcome, batch, key, loss.micro_steps, axis)


def _accumulated(
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
        return _varying(jnp.zeros(leaf.shape, wide_dtype(leaf.dtype)), axis)

    def add(totals: PyTree, part: tuple[PyTree, Any]) -> tuple[PyTree, PyTree]:
        made = outcome(*part)
        rows = jax.tree.map(_rows_or_none, made, is_leaf=is_leaf)
        dense = jax.tree.map(_dense_or_none, made, is_leaf=is_leaf)
        return jax.tree.map(jnp.add, totals, dense), rows

    start = jax.tree.map(zeros, like, is_leaf=is_leaf)
    totals, rows = jax.lax.scan(add, start, (parts, keys))

    def mean(leaf: Any, total: Any, row: Any) -> Any:
        if leaf is None:
            return None
        if isinstance(leaf, RowSlices):
            return _joined(row, count)
        return narrow(total / count, leaf.dtype)

    return jax.tree.map(mean, like, totals, rows, is_leaf=is_leaf)


def _rows_or_none(leaf: Any) -> Any:
    return leaf if isinstance(leaf, RowSlices) else None


def _dense_or_none(leaf: Any) -> Any:
    return None if isinstance(leaf, RowSlices) else leaf


def _joined(rows: RowSlices, count: int) -> RowSlices:
    """The mean of rows that were stacked along a new first axis."""
    values = rows.values.reshape(-1, *rows.shape[1:])
    return RowSlices(rows.indices.ravel(), values / count, rows.shape)


def mean_over_devices(outcome: Outcome, axis: AxisName) -> Outcome:
    """The same means on all devices."""

    def mean(leaf: Any) -> Any:
        if isinstance(leaf, RowSlices):
            return gathered_rows(leaf, axis)
        return None if leaf is None else jax.lax.pmean(leaf, axis)

    return jax.tree.map(mean, outcome, is_leaf=is_leaf)


def gathered_rows(rows: RowSlices, axis: AxisName) -> RowSlices:
    """The mean of all devices' rows: those that any of them touches.

    As much is moved as all devices touch together, never a table.
    """

    def gather(x: jax.Array) -> jax.Array:
        return jax.lax.all_gather(x, axis, tiled=True, to="invarying")

    values = gather(rows.values / jax.lax.axis_size(axis))
    return RowSlices(gather(rows.indices), values, rows.shape)


def _as_float(x: Any) -> jax.Array:
    """A count or a flag as a number that has a mean."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def _varying(x: Any, axis: AxisName) -> Any:
    """``x``, by its type another one on each device."""
    held = jax.typeof(x).manual_axis_type.varying
    missing = tuple(name for name in names_of(axis) if name not in held)
    return jax.lax.pcast(x, missing, to="varying") if missing else x
