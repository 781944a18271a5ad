"""Caution: a momentum moves only where the gradient agrees."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._dtypes import (
    cast,
    leaf_dtype,
    multiplied,
    narrow,
    wide_dtype,
)
from rmsprop_optax._foundation._missing_gradients import checked_inner
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.wrappers._precision import keep_types


@recorded
def cautious(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""Drops the part of an update that has the sign of the gradient.

    $$u ← u c / \max(m, 10^{-3})$$

    $c$ is 1 where $u g < 0$, else 0, and $m$ is the mean of $c$ over the leaf: what is
    left grows by as much as was dropped. The state of ``inner`` is not touched.

    Args:
      inner: The transformation, which descends (its updates point against gradients).

    Returns:
      A transformation with the state of ``inner``. Extra arguments go to ``inner``. One
      of them is read: ``where``, a tree of boolean arrays like the updates, says which
      elements count in the mean, as in `jax.numpy.mean`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.cautious(rmsprop_optax.rmsprop(1.0, momentum=0.9))
      >>> state = tx.init(jnp.zeros(2))
      >>> _, state = tx.update(jnp.array([1.0, 1.0]), state)
      >>> updates, _ = tx.update(jnp.array([1.0, -0.01]), state)
      >>> print([f"{u:.3f}" for u in updates])
      ['-10.280', '-0.000']

    References:
      Liang et al., [Cautious Optimizers](https://arxiv.org/abs/2411.16085), 2024; timm,
      ``caution``.
    """
    inner_init, inner_update = checked_inner(inner)

    def update_fn(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        where: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, PyTree]:
        if where is not None:
            extra_args["where"] = where
        new, new_state = inner_update(updates, state, params, **extra_args)
        state = keep_types(state, new_state)
        elements = () if where is None else (where,)
        return jax.tree.map(_agreeing, updates, new, *elements, is_leaf=is_leaf), state

    return check_states(optax.GradientTransformationExtraArgs(inner_init, update_fn))


def _agreeing(g: Any, update: Any, where: jax.Array | None = None) -> Any:
    """``update`` where it points against the gradient, grown by what was dropped."""
    if g is None or not jnp.size(g):
        return update
    dtype = wide_dtype(leaf_dtype(update))
    wide = cast(update, dtype)
    agrees = (wide * jnp.conj(cast(g, dtype))).real < 0
    real = agrees.astype(wide.real.dtype)
    share = jnp.mean(real, where=where)
    grown = real / jnp.maximum(share, 1e-3)
    return narrow(multiplied(wide, grown), leaf_dtype(update))
