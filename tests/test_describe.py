"""The lines that `describe` prints are the update that runs."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from rmsprop_optax import describe, dialects, rmsprop

EVERYTHING = """\
keras.optimizers.RMSprop
  g = g / 128                       the loss was scaled
  g = mean of 4 gradients           one update every 4 calls
  g = g min(1, 2 / ‖all g‖)         all leaves clipped by one factor
  m = 0.95 m + 0.05 g               mean, 0 at first
  v = 0.95 v + 0.05 |g|²            mean square, 1 at first
  c = 1 - 0.95^(t+1)                bias correction: v and m are divided by it
  s = √(v / c - |m / c|²) + 0.001   epsilon outside the root, the variance never below 0
  p = (1 - η(t) 0.0001) p           decoupled weight decay of the parameters in the mask
  b = 0.9 b + η(t) g / s            momentum, the learning rate inside
  p = p - (η(t) g / s + 0.9 b)      Nesterov's
  η(t)                              the learning rate at call t, from 0
  a = 0.999 a + 0.001 p             average: `finalize` returns it
  p = a                             every 10 iterations
  g infinite or NaN                 the call is dropped"""


def test_everything_at_once() -> None:
    tx = rmsprop(
        optax.linear_schedule(1.0, 0.0, 9),
        0.95,
        0.9,
        1e-3,
        centered=True,
        weight_decay=1e-4,
        weight_decay_mask={"w": True},
        global_clipnorm=2.0,
        use_ema=True,
        ema_momentum=0.999,
        ema_overwrite_frequency=10,
        loss_scale_factor=128.0,
        gradient_accumulation_steps=4,
        nesterov=True,
        eps_in_sqrt=False,
        initial_scale=1.0,
        bias_correction=True,
        skip_nonfinite=True,
    )
    assert describe(tx) == EVERYTHING


@pytest.mark.parametrize(
    ("tx", "line"),
    [
        (rmsprop(clipnorm=1.0), "g = g min(1, 1 / ‖g‖)             each leaf clipped"),
        (rmsprop(clipvalue=0.5), "g = g within ±0.5                 each value clipped"),
        (rmsprop(0.1), "p = p - 0.1 g / s"),
        (rmsprop(jnp.array(0.25)), "p = p - 0.25 g / s"),
        (dialects.torch(maximize=True), "g = -g                            maximizes"),
        (dialects.torch(centered=True), "s = √(v - |m|²) + 1e-08"),
        (dialects.tf_keras(), "s = √v + 1e-07                    epsilon outside"),
        (dialects.tf_keras(momentum=0.9), "s = √(v + 1e-07)                  epsilon in"),
        (dialects.timm(momentum=0.9, caution=True), "where b and g agree in sign"),
        (dialects.tf1(0.1), "v = 0.9 v + 0.1 |g|²              mean square, 1 at first"),
        (
            dialects.timm(0.1, weight_decay=0.5, decoupled_decay=True),
            "p = (1 - 0.1 0.5) p               decoupled weight decay",
        ),
    ],
)
def test_lines(tx: Any, line: str) -> None:
    assert line in describe(tx)


def test_traced_numbers_are_called_traced() -> None:
    texts = []

    def build(rho: jax.Array) -> jax.Array:
        texts.append(describe(rmsprop(rho=rho)))
        return rho

    jax.jit(build)(0.5)
    assert "v = traced v + (1 - traced) |g|²" in texts[0]


@pytest.mark.parametrize(
    "other",
    [
        rmsprop,
        rmsprop()._replace(init=rmsprop().init),
        optax.chain(rmsprop()),
        optax.sgd(0.1),
        "rmsprop",
        rmsprop().init,
    ],
)
def test_others_are_refused(other: Any) -> None:
    with pytest.raises(TypeError, match="takes what `rmsprop` or a dialect returned"):
        describe(other)
