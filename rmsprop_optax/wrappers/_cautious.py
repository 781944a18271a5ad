"""Caution: a momentum moves only where the gradient agrees."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._dtypes import wide_dtype
from rmsprop_optax._foundation._row_slices import values_of
from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.leaves import map_values, narrow, touched_size


def cautious(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""Drops what ``inner`` does against the gradient that it was given.

    $$u ← u c / \max(m, 10^{-3})$$

    $c$ is 1 where $u g < 0$, else 0, and $m$ its mean over the leaf: what is left grows
    by as much as was dropped. The state of ``inner`` is not touched.

    Args:
      inner: The transformation, which descends (its updates point against gradients).

    Returns:
      A transformation with the state of ``inner``. Extra arguments go to ``inner``.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.cautious(rmsprop_optax.rmsprop(1.0, momentum=0.9))
      >>> state = tx.init(jnp.zeros(2))
      >>> _, state = tx.update(jnp.array([1.0, 1.0]), state)
      >>> print(tx.update(jnp.array([1.0, -0.01]), state)[0])
      [-10.28041  -0.     ]

    References:
      Liang et al., [Cautious Optimizers](https://arxiv.org/abs/2411.16085), 2024; timm,
      ``caution``.
    """
    inner = optax.with_extra_args_support(inner)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        made, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(_agreeing, updates, made, is_leaf=is_leaf), state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _agreeing(g: Any, made: Any) -> Any:
    """``made`` where it points against the gradient, grown by what was dropped."""
    if g is None:
        return made
    gradient = values_of(g)

    def drop(u: jax.Array) -> jax.Array:
        wide = u.astype(wide_dtype(u.dtype))
        agrees = (wide * jnp.conj(gradient)).real < 0
        share = jnp.sum(agrees) / touched_size(g)
        return narrow(wide * (agrees / jnp.maximum(share, 1e-3)), u.dtype)

    return map_values(drop, made)
