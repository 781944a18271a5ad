"""The learning rate: a number, a schedule, or a callable that is read live."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._counts import next_count
from rmsprop_optax._foundation._dtypes import as_number, real_like
from rmsprop_optax._foundation._schedules import as_schedule
from rmsprop_optax._foundation._types import LearningRate, PyTree
from rmsprop_optax.leaves import map_leaves


class ScaleByLearningRateState(NamedTuple):
    """State of [`scale_by_learning_rate`][rmsprop_optax.scale_by_learning_rate].

    Attributes:
      count: Updates so far, int32: the step that a schedule is asked for.
    """

    count: jax.Array


def scale_by_learning_rate(
    learning_rate: LearningRate, *, flip_sign: bool = True
) -> optax.GradientTransformation:
    """Multiplies the updates by minus the learning rate: $u = -η_t g$.

    As `optax.scale_by_learning_rate`, and three things more: updates keep their dtype
    under an array as rate, the state is the same for every kind of rate, and a callable
    without arguments is read live, at every step, inside ``jit`` too.

    Args:
      learning_rate: A number or a scalar array, at least 0; a schedule, called with the
        number of updates so far (int32, from 0); or a callable without arguments.
      flip_sign: Whether to descend (minus) or to scale only.

    Returns:
      A transformation. Its state counts the updates.

    Raises:
      ValueError: For a negative rate.
      TypeError: For a callable of more than one argument.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> import rmsprop_optax
      >>> rate = {"now": 0.5}
      >>> tx = rmsprop_optax.scale_by_learning_rate(lambda: rate["now"])
      >>> update = jax.jit(tx.update)
      >>> state = tx.init(jnp.array(0.0))
      >>> print(update(jnp.array(1.0), state)[0])
      -0.5
      >>> rate["now"] = 0.25
      >>> print(update(jnp.array(1.0), state)[0])
      -0.25

    References:
      Keras 3, `learning_rate`.
    """
    rate_at = as_schedule(learning_rate)
    sign = -1 if flip_sign else 1

    def init_fn(params: PyTree) -> ScaleByLearningRateState:
        del params
        return ScaleByLearningRateState(count=jnp.zeros([], jnp.int32))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, ScaleByLearningRateState]:
        del params
        factor = as_number(sign * rate_at(state.count))
        updates = map_leaves(lambda g: g * real_like(factor, g), updates)
        count = next_count(state.count)
        return updates, ScaleByLearningRateState(count=count)

    return optax.GradientTransformation(init_fn, update_fn)
