"""Which kind of learning rate a callable is."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax._foundation import _schedules
from rmsprop_optax._foundation._checks import count_required_arguments
from rmsprop_optax._foundation._schedules import as_rate


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
    found = as_rate("rate", rate)
    value = wrap(found.at)(jnp.array(3, jnp.int32))
    np.testing.assert_allclose(value, at_three, rtol=1e-6)
    assert as_rate("rate", found) is found
    assert found.counts == (at_three in (3.0, 6.0))
    if not found.counts:
        np.testing.assert_allclose(found(None), at_three, rtol=1e-6)


def test_a_signature_is_inspected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the factory and each dialect, decay and accumulation included."""
    seen: list[str] = []

    def count(name: str, function: Any) -> int:
        seen.append(name)
        return count_required_arguments(name, function)

    monkeypatch.setattr(_schedules, "count_required_arguments", count)
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    ro.rmsprop(schedule, weight_decay=schedule, gradient_accumulation_steps=2)
    assert sorted(seen) == ["learning_rate", "weight_decay"]
    for name in ro.dialects.__all__:
        seen.clear()
        getattr(ro.dialects, name)(schedule)
        assert len(seen) == 1
    seen.clear()
    corrected = {"decoupled_decay": True, "corrected_weight_decay": True, "max_lr": 0.1}
    ro.dialects.timm(schedule, weight_decay=0.1, **corrected)
    ro.dialects.tf_keras(schedule, decay=0.1)
    assert seen == ["lr", "learning_rate"]


@pytest.mark.parametrize("name", ro.dialects.__all__)
def test_what_a_callable_returns_is_checked_in_the_callers_words(name: str) -> None:
    argument = "lr" if name in ("torch", "timm") else "learning_rate"
    tx = getattr(ro.dialects, name)(lambda step: "fast")
    with pytest.raises(TypeError, match=f"`{argument}` must return a real scalar"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
