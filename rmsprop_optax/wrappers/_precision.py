"""Float32 inside, and one rounding at the end."""

from __future__ import annotations

from typing import Any

import jax
import optax

from rmsprop_optax._foundation._axes import sharded_like
from rmsprop_optax._foundation._dtypes import cast, leaf_dtype, narrow, wide_dtype
from rmsprop_optax._foundation._missing_gradients import checked_inner
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._trees import is_inexact, is_leaf, map_values
from rmsprop_optax._foundation._types import PyTree


@recorded
def in_float32(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Runs ``inner`` in float32 and rounds its updates once, to the gradients' dtype.

    Parameters and gradients of a narrower dtype are widened to float32, at ``init`` too.
    So any transformation keeps float32 moments for bfloat16 parameters, and a chain
    rounds once instead of after every stage. Wider dtypes pass as they are. The state
    keeps the dtypes that it has at ``init``, whatever dtype the gradients have.

    Args:
      inner: The transformation, usually a chain.

    Returns:
      A transformation with the state of ``inner``. Extra arguments go to ``inner``.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import rmsprop_optax
      >>> g = jnp.array(1.0, jnp.bfloat16)
      >>> tx = optax.chain(*[optax.scale(0.998)] * 10)  # 0.998**10 = 0.9802
      >>> print(tx.update(g, tx.init(g))[0])
      0.960938
      >>> print(rmsprop_optax.in_float32(tx).update(g, tx.init(g))[0])
      0.980469
      >>> rmsprop_optax.in_float32(optax.trace(0.9)).init(g).trace.dtype
      dtype('float32')
    """
    inner_init, inner_update = checked_inner(inner)

    def init_fn(params: PyTree) -> PyTree:
        return inner_init(jax.tree.map(_widen, params, is_leaf=is_leaf))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        wide = jax.tree.map(_widen, updates, is_leaf=is_leaf)
        if params is not None:
            params = jax.tree.map(_widen, params, is_leaf=is_leaf)
        new, new_state = inner_update(wide, state, params, **extra_args)
        return round_to(updates, new), keep_types(state, new_state)

    return check_states(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def keep_update_dtypes(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Rounds the updates of ``inner`` to the dtypes of the gradients."""
    inner_init, inner_update = optax.with_extra_args_support(inner)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        new, state = inner_update(updates, state, params, **extra_args)
        return round_to(updates, new), state

    return check_states(optax.GradientTransformationExtraArgs(inner_init, update_fn))


def keep_types(old: PyTree, new: PyTree) -> PyTree:
    """``new`` in the dtypes and shardings of ``old``: Optax's follow the gradients'."""

    def keep(old_leaf: Any, leaf: Any) -> Any:
        if not (hasattr(leaf, "dtype") and hasattr(old_leaf, "dtype")):
            return leaf
        return sharded_like(cast(leaf, old_leaf.dtype), old_leaf)

    return jax.tree.map(keep, old, new)


def round_to(updates: PyTree, new: PyTree) -> PyTree:
    """``new`` in the dtypes of ``updates``; where there was no gradient, as it is."""

    def round_leaf(update: Any, new: Any) -> Any:
        if update is None:
            return new
        return map_values(lambda x: narrow(x, leaf_dtype(update)), new)

    return jax.tree.map(round_leaf, updates, new, is_leaf=is_leaf)


def _widen(leaf: Any) -> Any:
    if not is_inexact(leaf):
        return leaf
    dtype = wide_dtype(leaf_dtype(leaf))
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=dtype)
    return (
        leaf if leaf_dtype(leaf) == dtype else map_values(lambda x: cast(x, dtype), leaf)
    )
