"""Clipping: by value, by the norm of each leaf, by the norm of all leaves together."""

from collections.abc import Callable

import jax
import optax

from rmsprop_optax import rules
from rmsprop_optax._foundation._types import PyTree, Scalar
from rmsprop_optax._foundation._validation import check_positive
from rmsprop_optax.leaves import map_leaves, wide_leaves


def _clip(clip: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, optax.EmptyState]:
        del params
        return clip(updates), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)


def clip_by_value(max_delta: Scalar) -> optax.GradientTransformation:
    """Clips each value of each gradient into ``[-max_delta, max_delta]``.

    As `optax.clip`, but keeps the gradient's dtype under a traced bound, and clips the
    real and the imaginary part of a complex gradient, which Optax refuses.

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


def clip_by_norm(max_norm: Scalar) -> optax.GradientTransformation:
    r"""Scales each leaf down to the norm ``max_norm``, where its own norm is larger.

    $$u = g \min\left(1, \frac{\text{max\_norm}}{\lVert g \rVert_2}\right)$$

    The norm is taken in float32 or wider, and is right for values up to the dtype's own
    largest: squares that overflow are measured again, scaled.

    Args:
      max_norm: The largest norm that a leaf may have, greater than 0.

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

    def rule(g: jax.Array) -> jax.Array:
        return rules.clip_by_norm(g, rules.norm([g]), max_norm)

    return _clip(lambda updates: map_leaves(rule, updates))


def clip_by_global_norm(max_norm: Scalar) -> optax.GradientTransformation:
    r"""Scales all leaves down by one factor, where their joint norm exceeds ``max_norm``.

    $$u_i = g_i \min\left(1, \frac{\text{max\_norm}}
      {\sqrt{\sum_j \lVert g_j \rVert_2^2}}\right)$$

    As `optax.clip_by_global_norm`, but the norm is taken in float32 or wider whatever
    the gradients' dtype, and is right where squares overflow.

    Args:
      max_norm: The largest norm that all leaves together may have, greater than 0.

    Returns:
      A transformation without state.

    Raises:
      ValueError: For a bound that is not greater than 0.

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

    def clip(updates: PyTree) -> PyTree:
        leaves = wide_leaves(updates)
        if not leaves:
            return updates
        norm = rules.norm(leaves)
        return map_leaves(lambda g: rules.clip_by_norm(g, norm, max_norm), updates)

    return _clip(clip)
