"""Caution: a momentum moves only where the gradient agrees."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.leaves import map_moments


def cautious(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""Drops what ``inner`` does against the gradient that it was given.

    $$u \leftarrow u \odot \frac{c}{\max(\bar c, 10^{-3})}, \qquad
      c = 1 \text{ where } u\,g < 0, \text{ else } 0$$

    $\bar c$ is the mean of $c$ over the leaf: what is left grows by as much as was
    dropped. The state of ``inner`` is not touched.

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

    def rule(g: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        agrees = ((u * g.conj()).real < 0).astype(u.real.dtype)
        return g, u * (agrees / jnp.maximum(jnp.mean(agrees), 1e-3))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        made, state = inner.update(updates, state, params, **extra_args)
        # As a moment beside its gradient: where there is none, it stays what it is.
        _, made = map_moments(rule, updates, made)
        return made, state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
