"""Clipping: by value, by the norm of each leaf, by the norm of all leaves together."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax import rules
from rmsprop_optax._foundation._alignment import check_dense
from rmsprop_optax._foundation._axes import (
    bound_axes,
    check_axis_name,
    check_types_have_axes,
    varying_axes,
)
from rmsprop_optax._foundation._checks import (
    check_has_effect,
    check_mask,
    check_positive,
    mask_of,
)
from rmsprop_optax._foundation._dtypes import common_dtype, real_dtype
from rmsprop_optax._foundation._leafwise import map_leaves, wide_leaves
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._trees import is_leaf, rebuild
from rmsprop_optax._foundation._types import AxisName, Mask, PyTree, Scalar


def _clip(clip: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, optax.EmptyState]:
        del params
        check_dense(updates)
        return clip(updates), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)


@recorded
def clip_by_value(max_delta: Scalar) -> optax.GradientTransformation:
    """Clips each value of each gradient into ``[-max_delta, max_delta]``.

    It differs from `optax.clip` in two things: a traced bound does not change the dtype
    of the gradient, and of a complex gradient both parts are clipped, where Optax raises
    an error.

    Args:
      max_delta: The bound, greater than 0.

    Returns:
      A transformation without state.

    Raises:
      ValueError: For a bound that is not greater than 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.clip_by_value(1.0)
      >>> grads = jnp.array([-3.0, 0.5])
      >>> print(tx.update(grads, tx.init(grads))[0])
      [-1.   0.5]

    References:
      Keras 3, `clipvalue`; PyTorch, `torch.nn.utils.clip_grad_value_`.
    """
    check_positive("max_delta", max_delta)
    return _clip(
        lambda updates: map_leaves(lambda g: rules.clip_by_value(g, max_delta), updates)
    )


@recorded
def clip_by_norm(
    max_norm: Scalar, *, axis_name: AxisName | None = None, sharded: Mask | None = None
) -> optax.GradientTransformation:
    r"""Scales each leaf down to the norm ``max_norm``, where its own norm is larger.

    $$u = g \min(1, c / ‖g‖)$$

    with c = ``max_norm``.

    The norm is computed in float32 or wider, as for
    [`clip_by_global_norm`][rmsprop_optax.clip_by_global_norm].

    Args:
      max_norm: The largest norm that a leaf may have, greater than 0.
      axis_name: As in [`clip_by_global_norm`][rmsprop_optax.clip_by_global_norm].
      sharded: As there.

    Returns:
      A transformation without state.

    Raises:
      ValueError: For a bound that is not greater than 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.clip_by_norm(1.0)
      >>> grads = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5])}
      >>> updates, _ = tx.update(grads, tx.init(grads))
      >>> print(updates["a"], updates["b"])
      [0.6 0.8] [0.5]

    References:
      Keras 3, `clipnorm`; TensorFlow, `tf.clip_by_norm`.
    """
    check_positive("max_norm", max_norm)
    _check_axis(axis_name, sharded)

    def clip(updates: PyTree) -> PyTree:
        leaves = jax.tree.leaves(updates, is_leaf=is_leaf)
        axes = iter(_axes_of(updates, axis_name, sharded))
        clipped = [
            None if g is None else _clip_together(g, [next(axes)], max_norm)
            for g in leaves
        ]
        return rebuild(updates, clipped)

    return _clip(clip)


@recorded
def clip_by_global_norm(
    max_norm: Scalar, *, axis_name: AxisName | None = None, sharded: Mask | None = None
) -> optax.GradientTransformation:
    r"""Scales all leaves down by one factor, where their joint norm exceeds ``max_norm``.

    $$u_i = g_i \min(1, c / \sqrt{\sum_j ‖g_j‖^2})$$

    with c = ``max_norm``.

    It differs from `optax.clip_by_global_norm` in two things: the norm is computed in
    float32 or wider, and in a unit near ``max_norm``. In float32 it is right up to 1.3e30
    times ``max_norm``, where Optax's squares overflow at 1.8e19. Beyond that the norm
    counts as infinite, and the update is 0.

    Inside `jax.shard_map` a device sees only its shard of a gradient. With ``axis_name``
    the norm of a leaf that is sharded over that axis is that of all shards, and a leaf
    that every device holds whole counts once. Under `jax.jit` with sharded arrays leave
    ``axis_name`` out: there the norm is that of whole arrays already.

    Args:
      max_norm: The largest norm that all leaves together may have, greater than 0.
      axis_name: The mesh axis that gradients are sharded over, or several; None: a
        device has them all.
      sharded: Which gradients are sharded: a tree of booleans that is a prefix of them,
        or a function that makes one (under `optax.inject_hyperparams` name it in
        ``static_args``). None: this is read from their types. `jax.shard_map` keeps this
        information in the types, unless it is told not to; `jax.pmap` does not.

    Returns:
      A transformation without state.

    Raises:
      TypeError: For an axis name that is not a string or a tuple of strings.
      ValueError: For a bound that is not greater than 0; at the first trace, for an axis
        that is not there, or where array types do not record what is sharded and
        ``sharded`` is None.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.clip_by_global_norm(5.0)
      >>> grads = {"a": jnp.array(30.0), "b": jnp.array(-40.0)}
      >>> updates, _ = tx.update(grads, tx.init(grads))
      >>> print(updates["a"], updates["b"])
      3.0 -4.0

    References:
      Pascanu et al., [On the difficulty of training Recurrent Neural
      Networks](https://arxiv.org/abs/1211.5063), 2012; Keras 3, `global_clipnorm`.
    """
    check_positive("max_norm", max_norm)
    _check_axis(axis_name, sharded)

    def clip(updates: PyTree) -> PyTree:
        return _clip_together(updates, _axes_of(updates, axis_name, sharded), max_norm)

    return _clip(clip)


def _check_axis(axis_name: AxisName | None, sharded: Mask | None) -> None:
    if sharded is not None:
        check_mask("sharded", sharded)
    if axis_name is not None:
        check_axis_name("axis_name", axis_name)
    else:
        check_has_effect("sharded", sharded, None, needed="axis_name")


def _axes_of(
    updates: PyTree, axis_name: AxisName | None, sharded: Mask | None
) -> list[tuple[str, ...]]:
    """The axes that each gradient there is (that is not None) is sharded over."""
    leaves = jax.tree.leaves(updates, is_leaf=is_leaf)
    if axis_name is None:
        return [() for g in leaves if g is not None]
    names = bound_axes(axis_name)
    if sharded is None:
        check_types_have_axes(names)
        return [varying_axes(g, names) for g in leaves if g is not None]
    mask = mask_of(sharded, updates)
    present = jax.tree.map(lambda g: g is not None, updates, is_leaf=is_leaf)
    said = zip(
        jax.tree.leaves(jax.tree.broadcast(mask, present)),
        jax.tree.leaves(present),
        strict=True,
    )
    return [names if yes else () for yes, is_present in said if is_present]


def _clip_together(
    updates: PyTree, axes: list[tuple[str, ...]], max_norm: Scalar
) -> PyTree:
    """All leaves scaled by one factor."""
    leaves = wide_leaves(updates)
    if not leaves:
        return updates
    dtypes = [real_dtype(x.dtype) for x in leaves]
    widest = functools.reduce(common_dtype, dtypes)
    unit = rules.clipping_unit(max_norm, min(dtypes, key=lambda d: d.itemsize))
    norm = rules.norm(leaves, unit, axes)
    bound = jnp.asarray(max_norm, widest) * unit.astype(widest)
    return map_leaves(lambda g: rules.clip_by_norm(g, norm, bound), updates)
