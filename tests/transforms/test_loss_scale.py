"""The loss and its gradients agree on the scale, when that changes too."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import (
    dynamic_loss_scale,
    rmsprop,
    scale_loss,
    skip_nonfinite,
    unscale_loss,
)


def _loss(p: jax.Array) -> jax.Array:
    return jnp.sum(p**2) / 2


def _run(tx: optax.GradientTransformation, factors: list[float] | None = None) -> Any:
    """Parameters after each of five steps; ``factors`` are set before them."""
    params = jnp.array([3.0, -2.0])
    opt_state: Any = tx.init(params)
    seen = []
    for step in range(5):
        if factors is not None:
            factor = jnp.asarray(factors[step], jnp.float32)
            opt_state.hyperparams["loss_scale_factor"] = factor
        grads = jax.grad(lambda p, s: scale_loss(_loss(p), s))(params, opt_state)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(params))
    return np.array(seen)


def test_the_scale_cancels() -> None:
    plain = _run(rmsprop(0.1))
    for factor in (0.25, 8.0, 2.0**15):
        scaled = _run(rmsprop(0.1, loss_scale_factor=factor))
        np.testing.assert_array_equal(scaled, plain)


def test_agrees_when_the_factor_changes_mid_run() -> None:
    tx = optax.inject_hyperparams(rmsprop)(learning_rate=0.1, loss_scale_factor=8.0)
    same = _run(tx, [8.0] * 5)
    np.testing.assert_array_equal(_run(tx, [8.0, 16.0, 16.0, 2.0, 1024.0]), same)


def test_agrees_when_the_factor_is_a_schedule() -> None:
    inject = optax.inject_hyperparams(rmsprop)
    same = _run(inject(learning_rate=0.1, loss_scale_factor=8.0))
    growing = _run(
        inject(learning_rate=0.1, loss_scale_factor=lambda count: 2.0 ** (count + 1))
    )
    np.testing.assert_array_equal(growing, same)


def test_several_scales_are_an_error() -> None:
    params = jnp.array(1.0)
    twice = optax.chain(unscale_loss(2.0), unscale_loss(4.0))
    with pytest.raises(ValueError, match="The state holds 2 of the loss scales"):
        scale_loss(params, twice.init(params))
    nested = dynamic_loss_scale(rmsprop(loss_scale_factor=2.0))
    with pytest.raises(ValueError, match=r"has a loss scale already.*divided twice"):
        nested.init(params)


def test_the_name_of_a_parameter_is_not_a_loss_scale() -> None:
    class Params(NamedTuple):
        loss_scale: jax.Array

    state = optax.trace(0.9).init(Params(jnp.zeros(())))
    assert scale_loss(jnp.array(3.0), state) == 3.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_gradient_too_small_for_its_dtype_once_it_is_unscaled(dtype: str) -> None:
    """The gradient is 1e-8. Every order of wrappers gives the same update."""
    p, g = jnp.ones(1, dtype), jnp.array([1e-8 * 2**15], dtype)
    updates = [
        tx.update(g, tx.init(p), p)[0]
        for tx in (
            rmsprop(1.0, loss_scale_factor=2.0**15),
            dynamic_loss_scale(rmsprop(1.0)),
            skip_nonfinite(dynamic_loss_scale(rmsprop(1.0))),
            dynamic_loss_scale(skip_nonfinite(rmsprop(1.0))),
            optax.chain(unscale_loss(2.0**15), rmsprop(1.0)),
            rmsprop(1.0, loss_scale_factor=2.0**15, skip_nonfinite=True),
        )
    ]
    for update in updates:
        np.testing.assert_allclose(update.astype(float), -3.16e-05, rtol=1e-2)


def test_without_a_scale_the_loss_is_itself() -> None:
    loss = jnp.array(0.5)
    assert scale_loss(loss, rmsprop().init(jnp.array(1.0))) is loss


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_the_loss_keeps_its_dtype(dtype: Any) -> None:
    opt_state = rmsprop(loss_scale_factor=1024.0).init(jnp.array(1.0))
    scaled = scale_loss(jnp.array(0.5, dtype), opt_state)
    assert (scaled.dtype, float(scaled)) == (dtype, 512.0)


def test_the_scale_is_found_inside_other_wrappers() -> None:
    params = {"a": jnp.array(1.0)}
    scaled = rmsprop(loss_scale_factor=4.0, skip_nonfinite=True, use_ema=True)
    for tx in (scaled, optax.chain(scaled), optax.masked(scaled, {"a": True})):
        assert scale_loss(jnp.array(0.5), tx.init(params)) == 2.0
