"""The rate that is read before a step is the one that the step uses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import dialects, next_learning_rate, rmsprop

PARAMS = {"w": jnp.ones(2), "b": jnp.ones(1)}


def schedule(count: Any) -> Any:
    return 0.5 / (1 + count)


def sign_descent(learning_rate: Any, **given: Any) -> Any:
    """With a decay of 0 an update is the learning rate, for gradients of 1."""
    return rmsprop(learning_rate, rho=0.0, **given)


TRANSFORMATIONS: dict[str, Callable[[], Any]] = {
    "number": lambda: sign_descent(0.25),
    "schedule": lambda: sign_descent(schedule),
    "other clocks": lambda: sign_descent(
        schedule, use_ema=True, weight_decay=optax.constant_schedule(0.0), clipnorm=9.0
    ),
    "accumulation": lambda: sign_descent(schedule, gradient_accumulation_steps=2),
    "accumulation around": lambda: ro.accumulate_gradients(sign_descent(schedule), 2),
    "MultiSteps": lambda: optax.MultiSteps(sign_descent(schedule), 2),
    "tf_keras": lambda: dialects.tf_keras(schedule, rho=0.0, decay=0.5),
    "chain": lambda: optax.chain(optax.clip(2.0), sign_descent(schedule)),
    "named_chain": lambda: optax.named_chain(
        ("clip", optax.clip(2.0)), ("step", sign_descent(schedule))
    ),
    "stage": lambda: optax.chain(ro.scale_by_rms(0.0), ro.scale_by_learning_rate(0.25)),
    "stage, schedule": lambda: ro.in_float32(
        optax.chain(optax.scale_by_sign(), ro.scale_by_learning_rate(schedule))
    ),
    "wrappers": lambda: ro.dynamic_loss_scale(
        ro.skip_nonfinite(ro.low_precision(sign_descent(schedule), "float16")), 1.0
    ),
    "mask": lambda: optax.masked(sign_descent(schedule), {"w": True, "b": True}),
    "injected": lambda: optax.inject_hyperparams(rmsprop)(0.25, rho=0.0),
    "injected schedule": lambda: optax.inject_hyperparams(rmsprop)(schedule, rho=0.0),
    "injected, with a decay": lambda: optax.inject_hyperparams(dialects.tf_keras)(
        schedule, rho=0.0, decay=0.5
    ),
    "injected into Optax's": lambda: optax.inject_hyperparams(optax.sgd)(schedule),
    "injected, inside": lambda: optax.chain(
        optax.clip(2.0), ro.skip_nonfinite(optax.inject_hyperparams(optax.sgd)(schedule))
    ),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_it_is_what_the_update_uses(name: str) -> None:
    tx = TRANSFORMATIONS[name]()
    state, grads = tx.init(PARAMS), jax.tree.map(jnp.ones_like, PARAMS)

    @jax.jit
    def step(state: Any) -> Any:
        rate = next_learning_rate(tx, state)
        updates, state = tx.update(grads, state, PARAMS)
        return rate, -updates["w"][0], state

    used = []
    for _ in range(4):
        outside = next_learning_rate(tx, state)
        inside, moved, state = step(state)
        np.testing.assert_allclose(inside, outside, rtol=1e-6)
        if moved != 0:
            np.testing.assert_allclose(moved, outside, rtol=1e-5)
            used.append(float(moved))
    assert len(used) == (2 if name.startswith(("accumulation", "Multi")) else 4)


def test_a_live_rate() -> None:
    now = {"rate": 0.5}
    tx = rmsprop(lambda: now["rate"])
    state = tx.init(PARAMS)
    read = jax.jit(lambda state: next_learning_rate(tx, state))
    assert read(state) == 0.5
    now["rate"] = 0.25
    assert read(state) == 0.25


def test_a_traced_rate() -> None:
    @jax.jit
    def rates(value: jax.Array) -> jax.Array:
        tx = dialects.torch(value)
        return next_learning_rate(tx, tx.init(PARAMS))

    assert rates(0.125) == 0.125


def test_groups() -> None:
    groups: dict[str, Any] = {
        "a": dialects.torch(schedule),
        "b": optax.chain(optax.clip(1.0), rmsprop(0.1)),
        "frozen": optax.set_to_zero(),
    }
    tx = optax.partition(groups, {"w": "a", "b": "b"})
    state = tx.init(PARAMS)
    assert next_learning_rate(tx, state) == {"a": 0.5, "b": np.float32(0.1)}


def test_others_are_refused() -> None:
    for tx in (optax.adam(0.1), optax.clip(1.0), ro.cautious(optax.sgd(0.1))):
        with pytest.raises(ValueError, match="inject_hyperparams"):
            next_learning_rate(tx, tx.init(PARAMS))
    tx = optax.chain(rmsprop(), rmsprop())
    with pytest.raises(ValueError, match="2 learning rates"):
        next_learning_rate(tx, tx.init(PARAMS))
    with pytest.raises(ValueError, match="holds 0 counts"):
        next_learning_rate(rmsprop(schedule), rmsprop().init(PARAMS))
