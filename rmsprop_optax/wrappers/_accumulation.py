"""Gradient accumulation: the mean of k gradients, one update."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._types import Count, PyTree
from rmsprop_optax._foundation._validation import check_whole_number
from rmsprop_optax.leaves import init_moment, map_moments
from rmsprop_optax.wrappers._gate import make_or_hold


class AccumulateGradientsState(NamedTuple):
    """State of [`accumulate_gradients`][rmsprop_optax.accumulate_gradients].

    Attributes:
      count: Micro-steps since the last update, int32, from 0 to ``every_k - 1``.
      acc_grads: The sum of the gradients since then, in the parameter's dtype or
        float32, whichever is wider; exactly zero after an update.
      inner_state: The state of the transformation inside, which moves at updates only.
    """

    count: jax.Array
    acc_grads: PyTree
    inner_state: PyTree


def accumulate_gradients(
    inner: optax.GradientTransformation, every_k: Count
) -> optax.GradientTransformationExtraArgs:
    r"""Runs ``inner`` once every k calls, on the mean of the k gradients.

    The calls between are an addition and return zero updates. `optax.MultiSteps` runs
    ``inner`` at each of them and multiplies by 0, so that one infinite gradient leaves
    its accumulator NaN for ever; here the accumulator is exactly zero after each update.

    Args:
      inner: The transformation. Everything in it moves with updates, not with calls.
      every_k: Calls to an update, at least 2.

    Returns:
      A transformation. Extra arguments go to ``inner``, of the k-th call only.

    Raises:
      ValueError: For ``every_k`` less than 2.
      TypeError: For ``every_k`` that is not an integer.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.accumulate_gradients(optax.scale(-1.0), every_k=2)
      >>> state = tx.init(jnp.array(0.0))
      >>> for gradient in (1.0, 3.0):
      ...     update, state = tx.update(jnp.array(gradient), state)
      ...     print(update)
      0.0
      -2.0

    References:
      Keras 3, `gradient_accumulation_steps`.
    """
    check_whole_number("every_k", every_k, least=2)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: PyTree) -> AccumulateGradientsState:
        return AccumulateGradientsState(
            count=jnp.zeros([], jnp.int32),
            acc_grads=init_moment(params),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, AccumulateGradientsState]:
        emits = state.count + 1 >= every_k

        def emit() -> tuple[PyTree, tuple[PyTree, PyTree]]:
            mean, _ = map_moments(
                lambda g, acc: ((acc + g) / every_k, acc), updates, state.acc_grads
            )
            made, inner_state = inner.update(
                mean, state.inner_state, params, **extra_args
            )
            return made, (optax.tree.zeros_like(state.acc_grads), inner_state)

        def add() -> tuple[PyTree, PyTree]:
            _, acc_grads = map_moments(
                lambda g, acc: (g, acc + g), updates, state.acc_grads
            )
            return acc_grads, state.inner_state

        updates, (acc_grads, inner_state) = make_or_hold(emits, emit, add)
        count = jnp.where(emits, 0, state.count + 1).astype(jnp.int32)
        return updates, AccumulateGradientsState(count, acc_grads, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
