"""The lines that `describe` prints are the update that runs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import describe, dialects, rmsprop

EVERY_OPTIMIZER: tuple[Callable[[], Any], ...] = (
    lambda: optax.adamw(SCHEDULE, mask=lambda tree: jax.tree.map(jnp.ndim, tree)),
    lambda: optax.lamb(0.1),
    lambda: optax.lbfgs(),
    lambda: optax.contrib.muon(0.1),
    lambda: optax.lookahead(optax.sgd(0.1), 5, 0.5),
    lambda: optax.contrib.schedule_free(optax.sgd(0.1), 0.1, 0.9),
    lambda: optax.inject_hyperparams(optax.adam)(SCHEDULE),
    lambda: optax.conditionally_mask(optax.sgd(0.1), lambda step, **kwargs: True),
    lambda: ro.dynamic_loss_scale(ro.skip_nonfinite(ro.in_float32(optax.adam(0.1)))),
    lambda: ro.accumulate_gradients(optax.sgd(0.1), lambda n: 2, ro.sparse.RowSums({})),
    lambda: ro.scale_by_learning_rate(SCHEDULE),
    lambda: ro.decay_weights(lambda count: 0.1, lambda: 0.1, ro.exclude_paths("bias")),
)
SCHEDULE = optax.linear_schedule(1.0, 0.0, 10)

EVERYTHING = """\
keras.optimizers.RMSprop
  g = g / 128                       the loss was scaled
  g = mean of 4 gradients           one update every 4 calls
  g = g min(1, 2 / ‖all g‖)         all leaves clipped by one factor
  m = 0.95 m + 0.05 g               mean, 0 at first
  ν = 0.95 ν + 0.05 |g|²            mean square, 1 at first
  c = 1 - 0.95^(t+1)                bias correction: ν and m are divided by it
  w = ν / c - |m / c|²              variance, as a sum that is never below 0
  s = √w + 0.001                    epsilon outside the root
  p = (1 - η(t) · 0.0001) p         decoupled weight decay where True for w
  b = 0.9 b + η(t) g / s            momentum, the learning rate inside
  p = p - (η(t) g / s + 0.9 b)      Nesterov's
  η(t)                              the learning rate at call t, from 0: \
polynomial_schedule(end_value=0, init_value=1, power=1, transition_begin=0, \
transition_steps=9)
  η(0), (1), (10), ..., (10^6)      1, 0.8889, 0, 0, 0, 0, 0, 0
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
        (dialects.torch(centered=True), "w = 0.99 w + 0.01/0.99 |g - m|²   variance, 0"),
        (dialects.torch(centered=True), "s = √w + 1e-08"),
        (rmsprop(bias_correction=True), "s = √(ν / c + 1e-07)"),
        (dialects.tf_keras(), "s = √ν + 1e-07                    epsilon outside"),
        (dialects.tf_keras(momentum=0.9), "s = √(ν + 1e-07)                  epsilon in"),
        (dialects.timm(momentum=0.9, caution=True), "where the step and g agree in sign"),
        (dialects.tf1(0.1), "ν = 0.9 ν + 0.1 |g|²              mean square, 1 at first"),
        (rmsprop(lambda: 0.1), "the learning rate read at each call: <lambda>"),
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
    assert "ν = traced ν + (1 - traced) |g|²" in texts[0]


@pytest.mark.parametrize("other", [rmsprop, "rmsprop", rmsprop().init, None])
def test_others_are_refused(other: Any) -> None:
    with pytest.raises(TypeError, match="`tx` must be an Optax transformation"):
        describe(other)


PARAMS = {"conv": jnp.ones((2, 2), jnp.bfloat16), "linear": jnp.ones(3)}
PLAIN = describe(rmsprop(0.1)).split("\n")
ADAM = ["scale_by_adam(b1=0.9, b2=0.999, eps=1e-08, eps_root=0)", "scale(step_size=-0.1)"]
MULTI_STEPS = "MultiSteps(every_k_schedule=MultiSteps.__init__(every_k_schedule=2)"


def indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


@pytest.mark.parametrize(
    ("tx", "lines"),
    [
        (rmsprop(0.1)._replace(init=rmsprop().init), PLAIN),
        (jax.tree.map(lambda f: f, rmsprop(0.1)), PLAIN),
        (ro.cautious(rmsprop(0.1)), ["cautious", *indented(PLAIN)]),
        (optax.adam(0.1), ADAM),
        (ro.sparse.lazy(optax.adam(0.1)), ["lazy", *indented(ADAM)]),
        (rmsprop(0.1)._replace(update=jax.jit(rmsprop(0.1).update)), PLAIN),
        (
            optax.chain(
                ro.clip_by_global_norm(2.0),
                ro.low_precision(optax.adam(0.1), "int8"),
                ro.average_params(0.9),
            ),
            [
                "clip_by_global_norm(max_norm=2)",
                "low_precision(storage='int8')",
                *indented(ADAM),
                "average_params(decay=0.9, gradient_accumulation_steps=1)",
            ],
        ),
        (
            optax.named_chain(("a", optax.clip(1.0)), ("b", optax.identity())),
            ["clip(max_delta=1)", "identity"],
        ),
        (
            optax.apply_if_finite(rmsprop(0.1), 3),
            ["apply_if_finite(max_consecutive_errors=3)", *indented(PLAIN)],
        ),
    ],
)
def test_any_transformation(tx: Any, lines: list[str]) -> None:
    assert describe(tx).split("\n") == lines


def test_objects_with_methods() -> None:
    tx: Any = optax.MultiSteps(rmsprop(0.1), 2)
    first, *rest = describe(tx).split("\n")
    assert first.startswith(MULTI_STEPS)
    assert rest[1:] == indented(PLAIN)
    assert describe(tx.gradient_transformation()) == describe(tx)


@pytest.mark.parametrize("tx", [make() for make in EVERY_OPTIMIZER])
def test_no_address_is_printed(tx: Any) -> None:
    assert " at 0x" not in describe(tx, PARAMS)


@pytest.mark.parametrize("abstract", [False, True])
def test_parameters_of_groups(abstract: bool) -> None:
    params = jax.eval_shape(lambda: PARAMS) if abstract else PARAMS
    torch = dialects.torch()
    parts: dict[str, Any] = {"a": torch, "b": optax.adam(0.1), "c": torch}
    text = describe(optax.partition(parts, {"conv": "c", "linear": "a"}), params)
    lines = [line for line in text.split("\n") if line[4:5].strip()]
    assert lines == [
        "partition(param_labels=c for conv; a for linear)",
        "    torch.optim.RMSprop, for linear",
        *(f"    {line}" for line in ADAM),
        "    torch.optim.RMSprop, for conv",
    ]
    masked = optax.masked(rmsprop(), {"conv": True, "linear": False})
    assert "keras.optimizers.RMSprop, for conv\n" in describe(masked, params)


def test_injected_numbers() -> None:
    injected = optax.inject_hyperparams(rmsprop, static_args="epsilon")(0.1)
    text = describe(injected, PARAMS)
    assert text.startswith("inject_hyperparams(inner_factory=rmsprop, other_hps={")
    assert "\nkeras.optimizers.RMSprop, for conv, linear\n" in text
    assert "s = √(ν + 1e-07)" in text
    assert "p = p - traced g / s" in text
    text = describe(optax.inject_hyperparams(optax.sgd)(lambda step: 1.0 / (1 + step)))
    assert "\n  learning_rate(0), (1), (10), ..., (10^6) 1, 0.5, 0.09091, 0.0099" in text


def test_many_parameters_are_counted() -> None:
    text = describe(optax.chain(rmsprop()), {f"p{i}": jnp.ones(1) for i in range(9)})
    assert text.startswith("keras.optimizers.RMSprop, for p0, p1, p2, p3 and 5 more\n")


STORAGE = ro.MomentStorage("int8")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"epsilon": 1.2345678e-5}, {"epsilon": 1.2345679e-5}),
        ({"learning_rate": SCHEDULE}, {"learning_rate": lambda count: 0.1 / (1 + count)}),
        (
            {"learning_rate": lambda count: 0.1 / (1 + count)},
            {"learning_rate": lambda count: 0.1 / (2 + count)},
        ),
        (
            {"learning_rate": optax.piecewise_constant_schedule(0.1, {2000: 0.1})},
            {"learning_rate": optax.piecewise_constant_schedule(0.1, {3000: 0.1})},
        ),
        ({"weight_decay": SCHEDULE}, {"weight_decay": optax.constant_schedule(1.0)}),
        (
            {"weight_decay": 0.1, "weight_decay_mask": {"conv": True, "linear": False}},
            {"weight_decay": 0.1, "weight_decay_mask": {"conv": False, "linear": True}},
        ),
        (
            {"weight_decay": 0.1, "weight_decay_mask": ro.exclude_paths("conv")},
            {"weight_decay": 0.1, "weight_decay_mask": ro.exclude_paths("linear")},
        ),
        (
            {"moment_storage": STORAGE},
            {"moment_storage": dataclasses.replace(STORAGE, seed=1)},
        ),
        (
            {"gradient_accumulation_steps": 2, "accumulate_rows": {"conv": 1}},
            {"gradient_accumulation_steps": 2, "accumulate_rows": {"conv": 2}},
        ),
        ({"clipnorm": 1.0}, {"clipnorm": 1.0, "axis_name": "data"}),
    ],
)
def test_other_arguments_have_another_description(one: Any, other: Any) -> None:
    assert describe(rmsprop(**one)) == describe(rmsprop(**one))
    assert describe(rmsprop(**one)) != describe(rmsprop(**other))


def test_what_functions_choose_is_shown_for_parameters() -> None:
    params = {"conv": jnp.ones((2, 2)), "linear": jnp.ones(3)}
    tx = rmsprop(
        weight_decay=0.1,
        weight_decay_mask=lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree),
        moment_storage=ro.MomentStorage("bfloat16", exclude=lambda path, p: "co" in path),
    )
    assert describe(tx, params).split("\n")[-2:] == [
        "  conv                              moments stored in full",
        "  linear                            no weight decay",
    ]


def test_the_largest_rate_of_a_corrected_decay() -> None:
    def made(max_lr: float) -> str:
        given = {"decoupled_decay": True, "corrected_weight_decay": True}
        return describe(dialects.timm(SCHEDULE, weight_decay=0.1, max_lr=max_lr, **given))

    assert "κ(0), (1), (10), ..., (10^6)      0.5, 0.405, 0," in made(2.0)
    assert made(2.0) != made(1.0)


def test_a_transformation_is_short_to_print() -> None:
    assert repr(dialects.torch()) == "<Rmsprop: torch.optim.RMSprop>"
    other = rmsprop()._replace(update=optax.identity().update)
    assert repr(other) == "<Rmsprop: another update>"


@pytest.mark.parametrize("module", [ro, ro.sparse, ro.parallel])
def test_every_function_that_makes_a_transformation_is_known(module: Any) -> None:
    for name in module.__all__:
        value = getattr(module, name)
        made = str(getattr(value, "__annotations__", {}).get("return", ""))
        if "GradientTransformation" in made:
            assert hasattr(value, "__wrapped__"), f"{name} needs `recorded`"
