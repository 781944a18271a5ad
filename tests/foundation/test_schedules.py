"""Which kind of learning rate a callable is."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax._foundation._schedules import as_schedule


class _Schedule:
    def __call__(self, step: Any) -> Any:
        return 2.0 * step


class _Live:
    def __call__(self) -> float:
        return 7.0


def _any(*arguments: Any) -> Any:
    return 2.0 * arguments[0]


@pytest.mark.parametrize(
    ("rate", "at_three"),
    [
        (0.5, 0.5),
        (jnp.array(0.5), 0.5),
        (lambda step: 2.0 * step, 6.0),
        (jax.jit(lambda step: 2.0 * step), 6.0),
        (functools.partial(lambda scale, step: scale * step, 2.0), 6.0),
        (_Schedule(), 6.0),
        (_any, 6.0),
        (optax.linear_schedule(0.0, 10.0, 10), 3.0),
        (lambda: 7.0, 7.0),
        (lambda value=7.0: value, 7.0),
        (_Live(), 7.0),
        (functools.partial(float, "7"), 7.0),
    ],
)
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_every_kind_of_rate(rate: Any, at_three: float, wrap: Callable[..., Any]) -> None:
    value = wrap(as_schedule(rate))(jnp.array(3, jnp.int32))
    np.testing.assert_allclose(value, at_three, rtol=1e-6)
