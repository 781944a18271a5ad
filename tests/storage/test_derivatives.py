"""Derivatives through steps with narrow moments: those of the step without rounding."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro

W = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32)), jnp.float32)
ROUNDINGS = ["stochastic", "nearest"]
KINDS = ["bfloat16", "float16", "int8", "float8_e4m3fn"]


def _storage(kind: str, rounding: Any = "stochastic") -> ro.MomentStorage:
    return ro.MomentStorage(kind, block_size=16, min_size=0, rounding=rounding)


def _loss(
    rate: Any, w: jax.Array, storage: Any, steps: int, *, constant_state: bool = False
) -> jax.Array:
    """The loss after some steps with a learning rate, from weights ``w``."""
    tx = ro.rmsprop(rate, momentum=0.9, moment_storage=storage)
    loss = lambda w: jnp.sum((w - 1) ** 2)  # noqa: E731

    def step(carry: Any, _: None) -> Any:
        w, state = carry
        if constant_state:
            state = jax.lax.stop_gradient(state)
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), length=steps)
    return loss(w)


def _derivatives(loss: Callable[..., jax.Array]) -> list[Any]:
    """By rate and weights backward, by the rate forward."""
    forward = jax.jvp(lambda rate: loss(rate, W), (0.05,), (1.0,))[1]
    return [*jax.grad(loss, (0, 1))(0.05, W), forward]


def _assert_close(found: list[Any], expected: list[Any], rtol: float) -> None:
    for x, y in zip(found, expected, strict=True):
        assert np.linalg.norm(x - y) < rtol * np.linalg.norm(y)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("kind", KINDS[:2])
def test_across_steps_in_16_bits(kind: str, rounding: str) -> None:
    def exact(rate: Any, w: Any) -> jax.Array:
        return _loss(rate, w, None, 5)

    def stored(rate: Any, w: Any) -> jax.Array:
        return _loss(rate, w, _storage(kind, rounding), 5)

    found = jax.jit(partial(_derivatives, stored))()
    expected = jax.jit(partial(_derivatives, exact))()
    _assert_close(found, expected, 0.01)
    with jax.enable_x64(True):  # differences of the step that does not round
        w, h = jnp.asarray(W, float), 1e-6
        above, below = (float(exact(0.05 + sign * h, w)) for sign in (1, -1))
    difference = (above - below) / (2 * h)
    np.testing.assert_allclose([found[0], found[2]], difference, rtol=0.01)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("kind", KINDS[2:])
def test_eight_bits_carry_no_derivative_across_steps(kind: str, rounding: str) -> None:
    def loss(rate: Any, w: Any) -> jax.Array:
        return _loss(rate, w, _storage(kind, rounding), 3)

    forward = lambda f: jax.jvp(f, (0.05,), (1.0,))  # noqa: E731
    for derive in (lambda f: jax.grad(f)(0.05), forward):
        with pytest.raises(TypeError, match=r"bfloat16.*stop_gradient"):
            derive(lambda rate: loss(rate, W))


@pytest.mark.parametrize("kind", KINDS)
def test_within_a_step_it_is_that_of_the_step(kind: str) -> None:
    """That of the step without storage on the same moments."""
    storage = _storage(kind)
    tx, plain = (
        ro.rmsprop(0.05, momentum=0.9, moment_storage=s) for s in (storage, None)
    )
    _, state = tx.update(W, tx.init(W), W)
    known = ro.encode_state(state, plain.init(W))

    def loss(tx: Any, state: Any, g: jax.Array) -> jax.Array:
        return jnp.sum(tx.update(g, state, W)[0] ** 2)

    for wrap in (lambda f: f, jax.jit):
        found = wrap(jax.grad(partial(loss, tx, state)))(W + 1)
        expected = jax.grad(partial(loss, plain, known))(W + 1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_state_that_is_a_constant_is_no_error() -> None:
    rate = jax.grad(
        lambda rate: _loss(rate, W, _storage("int8"), 3, constant_state=True)
    )(0.05)
    exact = jax.grad(lambda rate: _loss(rate, W, None, 3, constant_state=True))(0.05)
    np.testing.assert_allclose(rate, exact, rtol=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_stochastic_updates_of_parameters(dtype: str) -> None:
    params = W.astype(dtype)

    def loss(rate: Any, apply: Callable[[jax.Array, jax.Array], jax.Array]) -> Any:
        p = params
        for _ in range(3):
            p = apply(p, -rate * p.astype(jnp.float32))
        return jnp.sum(p.astype(jnp.float32) ** 2)

    def stochastic(p: jax.Array, u: jax.Array) -> jax.Array:
        return ro.apply_updates_stochastic(p, u, jax.random.key(0))

    exact = lambda p, u: p.astype(jnp.float32) + u  # noqa: E731
    found = jax.jit(jax.grad(partial(loss, apply=stochastic)))(0.05)
    expected = jax.jit(jax.grad(partial(loss, apply=exact)))(0.05)
    np.testing.assert_allclose(found, expected, rtol=0.01)
