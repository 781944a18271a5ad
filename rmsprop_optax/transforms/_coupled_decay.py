"""Coupled weight decay: the gradient of an L2 penalty, before everything else."""

import jax
import optax

from rmsprop_optax._foundation._dtypes import as_number, real_like
from rmsprop_optax._foundation._types import PyTree, Scalar
from rmsprop_optax._foundation._validation import check_has_params, check_non_negative
from rmsprop_optax.leaves import map_leaves


def add_decayed_weights(weight_decay: Scalar) -> optax.GradientTransformation:
    """Adds the gradient of an L2 penalty: $g ← g + λ p$.

    Coupled: it comes first, so that RMSprop normalizes the penalty together with the
    gradient, as PyTorch's ``weight_decay`` does. For decay beside the update, see
    [`decay_weights`][rmsprop_optax.decay_weights]. As `optax.add_decayed_weights`, but
    $λ p$ of a bfloat16 parameter is not rounded to bfloat16 before it is added.

    Args:
      weight_decay: $λ$, at least 0.

    Returns:
      A transformation without state that needs ``params`` at every update.

    Raises:
      ValueError: For a negative number, or ``params=None`` at an update.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.add_decayed_weights(0.1)
      >>> params = jnp.array([2.0, -4.0])
      >>> print(tx.update(jnp.ones(2), tx.init(params), params)[0])
      [1.2 0.6]

    References:
      PyTorch, ``weight_decay`` of `torch.optim.RMSprop`.
    """
    check_non_negative("weight_decay", weight_decay)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, optax.EmptyState]:
        check_has_params(params, "add_decayed_weights")
        factor = as_number(weight_decay)

        def rule(g: jax.Array, p: jax.Array) -> jax.Array:
            return g + real_like(factor, g) * p

        return map_leaves(rule, updates, params=params), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)
