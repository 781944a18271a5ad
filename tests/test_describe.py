"""The lines that `describe` prints are the update that runs."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from rmsprop_optax import describe, dialects, rmsprop, skip_nonfinite

EVERYTHING = """\
keras.optimizers.RMSprop
  g = g / 128                       the loss was scaled
  g = mean of 4 gradients           one update every 4 calls
  g = g min(1, 2 / ‖all g‖)         all leaves clipped by one factor
  m = 0.95 m + 0.05 g               mean, 0 at first
  v = 0.95 v + 0.05 |g|²            mean square, 1 at first
  c = 1 - 0.95^(t+1)                bias correction: v and m are divided by it
  s = √(v / c - |m / c|²) + 0.001   epsilon outside the root, the variance never below 0
  p = (1 - η(t) · 0.0001) p         decoupled weight decay of the parameters in the mask
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
            "p = (1 - 0.1 · 0.5) p             decoupled weight decay",
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
    with pytest.raises(TypeError, match="must be what `rmsprop` or a dialect returned"):
        describe(other)


PARAMS = {"conv": jnp.ones((2, 2), jnp.bfloat16), "linear": jnp.ones(3)}
PLAIN = describe(rmsprop(0.1)).split("\n", 1)[1]


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize(
    ("tx", "first", "last"),
    [
        (rmsprop(0.1)._replace(), "conv, linear", ""),
        (jax.tree.map(lambda f: f, rmsprop(0.1)), "conv, linear", ""),
        (optax.chain(optax.clip(1.0), rmsprop(0.1)), "conv, linear", "EmptyState"),
        (optax.masked(rmsprop(0.1), {"conv": 1, "linear": 0}), "conv", "MaskedState"),
        (optax.MultiSteps(rmsprop(0.1), 2), "conv, linear", "MultiStepsState"),
        (skip_nonfinite(rmsprop(0.1)), "conv, linear", "SkipNonfiniteState"),
    ],
)
def test_what_is_inside_of_others(tx: Any, first: str, last: str, abstract: bool) -> None:
    params = jax.eval_shape(lambda: PARAMS) if abstract else PARAMS
    lines = [f"keras.optimizers.RMSprop, for {first}", PLAIN]
    if last:
        lines.append(f"and what has the states {last}")
    assert describe(tx, params) == "\n".join(lines)


def test_groups_and_foreign_parts() -> None:
    parts: dict[str, Any] = {"a": dialects.torch(), "b": optax.adam(0.1)}
    text = describe(optax.partition(parts, {"conv": "a", "linear": "b"}), PARAMS)
    assert text.startswith("torch.optim.RMSprop, for conv\n")
    assert text.endswith("PartitionState, MaskedState, ScaleByAdamState, EmptyState")
    injected = optax.inject_hyperparams(rmsprop, static_args="epsilon")(0.1)
    text = describe(injected, PARAMS)
    assert "s = √(v + 1e-07)" in text
    assert "p = p - traced g / s" in text
    with pytest.raises(TypeError, match=r"No part of .* was made by `rmsprop`"):
        describe(optax.adam(0.1), PARAMS)


def test_many_parameters_are_counted() -> None:
    text = describe(optax.chain(rmsprop()), {f"p{i}": jnp.ones(1) for i in range(9)})
    assert text.startswith("keras.optimizers.RMSprop, for p0, p1, p2, p3 and 5 more\n")
