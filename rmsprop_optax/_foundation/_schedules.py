"""Every kind of learning rate as one kind: a function of the step."""

from collections.abc import Callable
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from rmsprop_optax._foundation._types import LearningRate, Schedule
from rmsprop_optax._foundation._validation import (
    check_non_negative,
    count_required_arguments,
)


def as_schedule(learning_rate: LearningRate, name: str = "learning_rate") -> Schedule:
    """Any kind of learning rate as a function of the step; ``name`` is for errors.

    Raises:
      ValueError: For a negative number.
      TypeError: For a callable of more than one argument, or what is no number.
    """
    if not callable(learning_rate):
        check_non_negative(name, learning_rate)
        return lambda count: learning_rate
    if count_required_arguments(name, learning_rate) == 1:
        return cast(Schedule, learning_rate)
    return _live(cast(Callable[[], Any], learning_rate))


def check_learning_rate(name: str, value: Any) -> None:
    """Any kind that `as_schedule` takes."""
    as_schedule(value, name)


def _live(read: Callable[[], Any]) -> Schedule:
    """Calls back to Python at every step, also out of a compiled one."""

    def value_now(count: chex.Numeric) -> jax.Array:
        del count
        dtype = jnp.result_type(float)
        return io_callback(
            lambda: np.asarray(read(), dtype), jax.ShapeDtypeStruct((), dtype)
        )

    return value_now
