"""The learning rate: a number, a schedule, or a callable that is read live."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._checks import check_flag
from rmsprop_optax._foundation._dtypes import as_number, multiplied
from rmsprop_optax._foundation._leafwise import map_leaves
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._schedules import as_rate, next_count
from rmsprop_optax._foundation._types import LearningRate, PyTree


class ScaleByLearningRateState(NamedTuple):
    """State of [`scale_by_learning_rate`][rmsprop_optax.scale_by_learning_rate].

    It is empty: a number and a live callable need no count. With a schedule the state is
    an `optax.ScaleByScheduleState`.
    """


@recorded
def scale_by_learning_rate(
    learning_rate: LearningRate, *, flip_sign: bool = True
) -> optax.GradientTransformation:
    """Multiplies the updates by minus the learning rate: $u = -η_t g$.

    It differs from `optax.scale_by_learning_rate` in two things: a rate that is an array
    does not change the dtype of the updates, and a callable without arguments is read
    live, at every step, inside ``jit`` too.

    Args:
      learning_rate: A number or a scalar array, at least 0; a schedule, called with the
        number of updates so far (int32, from 0); or a callable without arguments.
      flip_sign: Whether to descend (minus) or to scale only.

    Returns:
      A transformation. With a schedule its state counts the updates.

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
    rate = as_rate("learning_rate", learning_rate)
    check_flag("flip_sign", flip_sign)
    sign = -1 if flip_sign else 1

    def init_fn(params: PyTree) -> PyTree:
        del params
        if not rate.counts:
            return ScaleByLearningRateState()
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        del params
        count = state.count if rate.counts else None
        factor = as_number(sign * rate(count))
        updates = map_leaves(lambda g: multiplied(g, factor), updates)
        if count is None:
            return updates, state
        return updates, optax.ScaleByScheduleState(count=next_count(count))

    return optax.GradientTransformation(init_fn, update_fn)
