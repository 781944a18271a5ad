"""The sign of the gradient: down a loss, or up a reward."""

import optax

from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.leaves import map_leaves


def negate() -> optax.GradientTransformation:
    """Turns each gradient around: first in a chain that is to maximize.

    Returns:
      A transformation without state.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.negate()
      >>> print(tx.update(jnp.array([1.0, -2.0]), tx.init(jnp.zeros(2)))[0])
      [-1.  2.]

    References:
      PyTorch, ``maximize``.
    """

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, optax.EmptyState]:
        del params
        return map_leaves(lambda g: -g, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)
