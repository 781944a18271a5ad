"""Every kind of learning rate as one kind: a function of the step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback  # noqa: TID251

from rmsprop_optax._foundation._checks import (
    check_non_negative,
    count_required_arguments,
    is_real,
)
from rmsprop_optax._foundation._types import Count, LearningRate, Scalar, Schedule


def next_count(count: jax.Array, period: Count = 1) -> jax.Array:
    """``count + 1``; after the largest int32, the last ``period`` counts repeat.

    So it stays what it is, or keeps its remainder.
    """
    count = jnp.asarray(count)
    is_largest = count == jnp.iinfo(count.dtype).max
    return count + jnp.where(is_largest, 1 - period, 1).astype(count.dtype)


def last_call(count: Any, every_k: Count) -> jax.Array:
    """The last of the k calls of update ``count``, or the largest int32 if that is less.

    All of them from 0.
    """
    largest = jnp.iinfo(jnp.int32).max
    fits = count <= (largest - every_k + 1) // every_k
    return jnp.where(fits, count * every_k + every_k - 1, largest)


class Rate(NamedTuple):
    """A learning rate, or a weight decay, of any kind: called with the step.

    Attributes:
      at: The step to the value. Where ``counts`` is False, the step may be None.
      counts: Whether the step is read, so that a state has to count it.
      given: What it was made from, for descriptions.
    """

    at: Callable[[Any], Any]
    counts: bool
    given: Any

    def __call__(self, count: Any) -> Any:
        """The value at a step."""
        return self.at(count)


def as_rate(name: str, value: LearningRate) -> Rate:
    """Any kind of learning rate, checked and classified; ``name`` is for errors."""
    if isinstance(value, Rate):
        return value
    if not callable(value):
        number = _scalar(value)
        check_non_negative(name, number)
        return Rate(lambda count: number, False, number)
    if is_schedule(name, value):
        schedule = cast(Schedule, value)
        return Rate(lambda count: _returned(name, schedule(count)), True, value)
    return Rate(_Live(name, cast(Callable[[], Any], value)), False, value)


def as_decay(name: str, value: Scalar | Schedule) -> Rate:
    """The same for a weight decay, which can't be read live."""
    rate = as_rate(name, value)
    if isinstance(rate.at, _Live):
        check_non_negative(name, value)  # raises: it is not a number
    return rate


def is_schedule(name: str, value: Any) -> bool:
    return callable(value) and count_required_arguments(name, value) == 1


def _scalar(rate: Any) -> Any:
    """A rate of shape (1,), which PyTorch and Optax take too, as a scalar."""
    return rate.reshape(()) if getattr(rate, "shape", None) == (1,) else rate


def _returned(name: str, rate: Any) -> Any:
    """What a callable returned: a real scalar, or an error."""
    rate = _scalar(rate)
    number = isinstance(rate, (int, float, np.generic, np.ndarray, jax.Array))
    if not number or np.shape(rate) != () or not is_real(jnp.result_type(rate)):
        raise TypeError(f"`{name}` must return a real scalar, it returned {rate!r}.")
    return rate


@dataclass(frozen=True)
class _Live:
    """Calls back to Python at every step, also from a compiled one.

    An object, not a closure: a program that takes closures apart would read a copy of
    what the callable reads.
    """

    name: str
    read: Callable[[], Any]

    def __call__(self, count: Any) -> jax.Array:
        del count
        dtype = jnp.result_type(float)
        return io_callback(lambda: self._now(dtype), jax.ShapeDtypeStruct((), dtype))

    def _now(self, dtype: Any) -> np.ndarray:
        rate = _returned(self.name, self.read())
        with np.errstate(over="ignore"):
            rounded = np.asarray(rate).astype(dtype)
        if not np.isfinite(rounded):
            raise ValueError(
                f"`{self.name}` returned {rate!r}, which is {rounded} in {dtype}."
            )
        return rounded
