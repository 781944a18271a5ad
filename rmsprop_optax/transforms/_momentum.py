"""Momentum: a decaying sum of updates, plain or Nesterov's."""

import jax
import optax

from rmsprop_optax import rules
from rmsprop_optax._foundation._types import PyTree, Scalar
from rmsprop_optax._foundation._validation import check_decay, check_flag
from rmsprop_optax.leaves import Storage, as_storage, init_moment, map_moments


def trace(
    decay: Scalar, nesterov: bool = False, moment_storage: Storage = None
) -> optax.GradientTransformation:
    """Replaces each update by a decaying sum of the updates so far.

    $$b_t = μ b_{t-1} + u_t$$

    The update is $b_t$, or with ``nesterov`` $u_t + μ b_t$.

    `optax.trace` with one difference: the trace is kept in the parameter's dtype or
    float32, whichever is wider, and no gradient's dtype changes that, where Optax's
    comes back from a float32 gradient as float32 and recompiles the step.

    Args:
      decay: $μ$, in [0, 1).
      nesterov: Whether the update looks one step ahead.
      moment_storage: How moments are kept between steps: a
        [`MomentStorage`][rmsprop_optax.MomentStorage] or its kind alone, ``"one_byte"``
        or a floating dtype; None: the parameter's dtype or float32, if that is wider.

    Returns:
      A transformation whose state is an `optax.TraceState`. Updates keep their dtype.

    Raises:
      ValueError: For a decay outside [0, 1), or updates that do not fit the state.
      TypeError: For a parameter that is not floating-point or complex.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.trace(decay=0.5)
      >>> state = tx.init(jnp.array(0.0))
      >>> for _ in range(3):
      ...     update, state = tx.update(jnp.array(1.0), state)
      >>> print(update)
      1.75

    References:
      Sutskever et al., [On the importance of initialization and momentum in deep
      learning](https://proceedings.mlr.press/v28/sutskever13.html), 2013.
    """
    check_decay("decay", decay)
    check_flag("nesterov", nesterov)
    storage = as_storage(moment_storage)

    def init_fn(params: PyTree) -> optax.TraceState:
        return optax.TraceState(trace=init_moment(params, storage=storage))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, optax.TraceState]:
        del params

        def rule(g: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
            return rules.trace(g, b, decay, nesterov=nesterov)

        updates, new_trace = map_moments(rule, updates, state.trace)
        return updates, optax.TraceState(trace=new_trace)

    return optax.GradientTransformation(init_fn, update_fn)
