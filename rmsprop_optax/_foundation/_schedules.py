"""Every kind of learning rate as one kind: a function of the step."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import io_callback  # noqa: TID251

from rmsprop_optax._foundation._checks import (
    check_non_negative,
    count_required_arguments,
    is_real,
)
from rmsprop_optax._foundation._types import LearningRate, Schedule


def next_count(count: jax.Array) -> jax.Array:
    """``count + 1``; the largest int32 stays what it is."""
    return jnp.asarray(optax.safe_increment(count))


def as_schedule(
    learning_rate: LearningRate, name: str = "learning_rate"
) -> Callable[[Any], Any]:
    """Any kind of learning rate as a function of the step; ``name`` is for errors.

    Only a schedule reads the step: for the other kinds it may be None.

    Raises:
      ValueError: For a negative number.
      TypeError: For a callable of more than one argument, or what is not a number.
    """
    if not callable(learning_rate):
        number = _scalar(learning_rate)
        check_non_negative(name, number)
        return lambda count: number
    if count_required_arguments(name, learning_rate) == 1:
        schedule = cast(Schedule, learning_rate)
        return lambda count: _returned(name, schedule(count))
    return _live(name, cast(Callable[[], Any], learning_rate))


def _scalar(rate: Any) -> Any:
    """A rate of shape (1,), which PyTorch and Optax take too, as a scalar."""
    return rate.reshape(()) if getattr(rate, "shape", None) == (1,) else rate


def _returned(name: str, rate: Any) -> Any:
    """What a callable returned: a real scalar.

    Raises:
      TypeError: For anything else.
    """
    rate = _scalar(rate)
    number = isinstance(rate, (int, float, np.generic, np.ndarray, jax.Array))
    if not number or np.shape(rate) != () or not is_real(jnp.result_type(rate)):
        raise TypeError(f"`{name}` must return a real scalar, it returned {rate!r}.")
    return rate


def is_schedule(rate: Any, name: str = "learning_rate") -> bool:
    """Whether ``rate`` is a function of the step, and so needs a count."""
    return callable(rate) and count_required_arguments(name, rate) == 1


def check_learning_rate(name: str, value: Any) -> None:
    """A number of at least 0, a schedule, or a callable without arguments."""
    as_schedule(value, name)


def check_number_or_schedule(name: str, value: Any) -> None:
    """A number of at least 0, or a schedule."""
    if not is_schedule(value, name):
        check_non_negative(name, _scalar(value))


def _live(name: str, read: Callable[[], Any]) -> Callable[[Any], Any]:
    """Calls back to Python at every step, also from a compiled one."""

    def read_now(dtype: Any) -> np.ndarray:
        rate = _returned(name, read())
        with np.errstate(over="ignore"):
            rounded = np.asarray(rate).astype(dtype)
        if not np.isfinite(rounded):
            raise ValueError(
                f"`{name}` returned {rate!r}, which is {rounded} in {dtype}."
            )
        return rounded

    def value_now(count: Any) -> jax.Array:
        del count
        dtype = jnp.result_type(float)
        return io_callback(lambda: read_now(dtype), jax.ShapeDtypeStruct((), dtype))

    return value_now
