"""Every kind of learning rate; the live one is read out of compiled steps."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects, rmsprop, scale_by_learning_rate


class Live:
    """A callable that a person may turn while training runs."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def _constant(value: float) -> float:
    return value


CALLABLES: dict[str, Callable[..., Any]] = {
    "no argument": lambda: 0.25,
    "a default": lambda value=0.25: value,
    "a partial": functools.partial(_constant, 0.25),
    "a partial by keyword": functools.partial(_constant, value=0.25),
    "an object": Live(0.25),
    "a method": Live(0.25).__call__,
    "a schedule": lambda count: 0.25 + 0 * count,
    "a schedule and a default": lambda count, value=0.25: value + 0 * count,
    "any arguments": lambda *args: 0.25 + 0 * args[0],
    "a schedule of Optax": optax.constant_schedule(0.25),
    "an array": lambda: jnp.array(0.25),
}


@pytest.mark.parametrize("kind", CALLABLES)
def test_kinds_of_callables(kind: str) -> None:
    tx = scale_by_learning_rate(CALLABLES[kind])
    g = jnp.array([4.0, -8.0])
    updates, state = jax.jit(tx.update)(g, tx.init(g))
    np.testing.assert_array_equal(updates, [-1.0, 2.0])
    counted = isinstance(state, optax.ScaleByScheduleState)
    assert jax.tree.leaves(state) == ([1] if counted else [])
    assert counted == (kind == "any arguments" or "schedule" in kind)


@pytest.mark.parametrize("rate", [0.5, 1, np.float64(0.5), jnp.array(0.5)])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.complex64])
def test_numbers_keep_the_dtype(rate: Any, dtype: Any) -> None:
    tx = scale_by_learning_rate(rate)
    g = jnp.array([4.0, -8.0], dtype)
    updates, _ = tx.update(g, tx.init(g))
    assert updates.dtype == dtype
    np.testing.assert_array_equal(updates, -float(rate) * g)


def test_flip_sign() -> None:
    tx = scale_by_learning_rate(0.5, flip_sign=False)
    assert tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0] == 1.5


def test_one_compiled_step_sees_a_changed_value() -> None:
    rate = Live(0.1)
    tx = rmsprop(rate, rho=0.0, epsilon=0.0, weight_decay=0.5)
    params, g = jnp.array(1.0), jnp.array(2.0)
    opt_state = tx.init(params)
    step = jax.jit(tx.update)
    updates, opt_state = step(g, opt_state, params)
    assert updates == pytest.approx(-0.1 - 0.05)
    rate.now = 1.0
    updates, opt_state = step(g, opt_state, params)
    assert updates == pytest.approx(-1.0 - 0.5)
    assert step._cache_size() == 1


def test_scan_reads_at_every_iteration() -> None:
    left = [0.1, 0.2, 0.4]
    tx = scale_by_learning_rate(lambda: left.pop(0))

    def step(state: Any, g: Any) -> tuple[Any, Any]:
        updates, state = tx.update(g, state)
        return state, updates

    _, updates = jax.jit(lambda gs: jax.lax.scan(step, tx.init(gs[0]), gs))(jnp.ones(3))
    np.testing.assert_allclose(updates, [-0.1, -0.2, -0.4], rtol=1e-6)
    assert left == []


def test_vmap_sees_a_changed_value() -> None:
    rate = Live(0.5)
    tx = scale_by_learning_rate(rate)
    gs = jnp.array([1.0, 2.0, 3.0])
    states = jax.vmap(tx.init)(gs)
    step = jax.jit(jax.vmap(tx.update))
    updates, states = step(gs, states)
    np.testing.assert_array_equal(updates, [-0.5, -1.0, -1.5])
    rate.now = 2.0
    np.testing.assert_array_equal(step(gs, states)[0], [-2.0, -4.0, -6.0])


@pytest.mark.parametrize("k", [2, 3])
def test_schedules_see_micro_steps(k: int) -> None:
    seen: list[int] = []

    def schedule(count: Any) -> jax.Array:
        jax.debug.callback(lambda c: seen.append(int(c)), count)
        return jnp.float32(0.1) * (count + 1)

    tx = rmsprop(schedule, rho=0.0, epsilon=0.0, gradient_accumulation_steps=k)
    params = jnp.array(0.0)
    opt_state, steps = tx.init(params), []
    update = jax.jit(tx.update)
    for _ in range(3 * k):
        updates, opt_state = update(jnp.array(1.0), opt_state, params)
        steps.append(float(updates))
    jax.effects_barrier()
    assert seen == [t * k + k - 1 for t in range(3)]
    np.testing.assert_allclose(steps[k - 1 :: k], [-0.1 * k * t for t in (1, 2, 3)], 1e-6)
    assert sum(step != 0 for step in steps) == 3


@pytest.mark.parametrize(
    "make", [lambda x: x, lambda x: lambda: x, lambda x: lambda count: x + 0.0 * count]
)
def test_a_rate_of_shape_one_is_a_scalar(make: Any) -> None:
    """As a tensor of one element in PyTorch, and in a schedule that reads an array."""
    params = {"a": jnp.ones(3), "scalar": jnp.array(2.0)}
    for tx in (
        dialects.torch(lr=make(jnp.array([0.5]))),
        dialects.optax(make(np.array([0.5], np.float32))),
        rmsprop(make(jnp.array([0.5])), weight_decay=0.1),
    ):
        update, _ = jax.jit(tx.update)(params, tx.init(params), params)
        assert jax.tree.map(jnp.shape, update) == {"a": (3,), "scalar": ()}
    with pytest.raises(ValueError, match=r"`lr` .* of shape \(2,\): give a scalar"):
        dialects.torch(lr=jnp.ones(2))
