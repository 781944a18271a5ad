"""The RMSprops of reinforcement-learning libraries, by the formulas of their sources."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optax
import pytest

from rmsprop_optax import dialects
from tests.parity._installed import peer
from tests.parity._problem import differences, draw_problem, ours

Formula = Callable[[Any, Any, dict[str, Any], dict[str, float]], Any]


def stable_baselines3(p: Any, g: Any, s: dict[str, Any], a: dict[str, float]) -> Any:
    """`RMSpropTFLike` of `common/sb2_compat/rmsprop_tf_like.py`."""
    g = g + a.get("weight_decay", 0) * p
    s["v"] = a["alpha"] * s.get("v", 1) + (1 - a["alpha"]) * g**2
    variance = s["v"]
    if a.get("centered"):
        s["m"] = a["alpha"] * s.get("m", 0) + (1 - a["alpha"]) * g
        variance = variance - s["m"] ** 2
    s["b"] = a.get("momentum", 0) * s.get("b", 0) + g / np.sqrt(variance + a["eps"])
    return p - a["lr"] * s["b"]


def cleanba(p: Any, g: Any, s: dict[str, Any], a: dict[str, float]) -> Any:
    """`rmsprop_pytorch_style`: epsilon outside of the root, the rate in the momentum."""
    s["v"] = a["decay"] * s.get("v", 0) + (1 - a["decay"]) * g**2
    step = a["lr"] * g / (np.sqrt(s["v"]) + a["eps"])
    s["b"] = a.get("momentum", 0) * s.get("b", 0) + step
    return p - s["b"]


def dopamine(p: Any, g: Any, s: dict[str, Any], a: dict[str, float]) -> Any:
    """`create_optimizer(name='rmsprop')` of its JAX agents: centered, epsilon inside."""
    s["v"] = a["decay"] * s.get("v", 0) + (1 - a["decay"]) * g**2
    s["m"] = a["decay"] * s.get("m", 0) + (1 - a["decay"]) * g
    return p - a["lr"] * g / np.sqrt(s["v"] - s["m"] ** 2 + a["eps"])


def dopamine_tf(p: Any, g: Any, s: dict[str, Any], a: dict[str, float]) -> Any:
    """`tf.compat.v1.train.RMSPropOptimizer(centered=True)` of its TensorFlow agents."""
    s.setdefault("v", 1)
    return dopamine(p, g, s, a)


SB3 = {"lr": 7e-4, "alpha": 0.99, "eps": 1e-5}
ROWS: list[tuple[str, Formula, dict[str, float], Any]] = [
    (
        "A2C of Stable-Baselines3, use_rms_prop",
        stable_baselines3,
        SB3,
        lambda lr: dialects.timm(lr, 0.99, 1e-5, lr_in_momentum=False),
    ),
    (
        "RMSpropTFLike with momentum, centered, decay",
        stable_baselines3,
        SB3 | {"momentum": 0.9, "centered": 1, "weight_decay": 0.01},
        lambda lr: dialects.timm(
            lr,
            0.99,
            1e-5,
            weight_decay=0.01,
            momentum=0.9,
            centered=True,
            lr_in_momentum=False,
        ),
    ),
    (
        "IMPALA of Cleanba",
        cleanba,
        {"lr": 6e-4, "decay": 0.99, "eps": 0.01},
        lambda lr: dialects.torch(lr, alpha=0.99, eps=0.01),
    ),
    (
        "rmsprop_pytorch_style with momentum",
        cleanba,
        {"lr": 6e-4, "decay": 0.99, "eps": 0.01, "momentum": 0.9},
        lambda lr: dialects.optax(lr, 0.99, 0.01, eps_in_sqrt=False, momentum=0.9),
    ),
    (
        "DQN of Dopamine, JAX",
        dopamine,
        {"lr": 2.5e-4, "decay": 0.95, "eps": 1.5e-4},
        lambda lr: dialects.optax(lr, decay=0.95, eps=1.5e-4, centered=True),
    ),
    (
        "DQN of Dopamine, TensorFlow",
        dopamine_tf,
        {"lr": 2.5e-4, "decay": 0.95, "eps": 1e-5},
        lambda lr: dialects.tf1(lr, decay=0.95, epsilon=1e-5, centered=True),
    ),
]


@pytest.mark.parametrize(
    ("formula", "numbers", "make"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS]
)
def test_the_formula_of_its_source(
    formula: Formula, numbers: dict[str, float], make: Any
) -> None:
    problem = draw_problem(0, np.float64, steps=60, decades=1)
    expected = {}
    for name, p in problem.params.items():
        state: dict[str, Any] = {}
        after = []
        for g in problem.grads[name]:
            p = formula(p, g, state, numbers)
            after.append(p)
        expected[name] = np.stack(after)
    mine = ours(
        lambda learning_rate: make(learning_rate),
        problem,
        None,
        "learning_rate",
        learning_rate=numbers["lr"],
    )
    assert differences(mine, expected).max() < 1e-10


TORCH: list[tuple[str, Any, Callable[[Any], Any]]] = [
    (
        "StepLR",
        optax.exponential_decay(0.1, 7, 0.5, staircase=True),
        lambda s: lambda o: s.StepLR(o, 7, gamma=0.5),
    ),
    (
        "MultiStepLR",
        optax.piecewise_constant_schedule(0.1, {10: 0.5, 25: 0.5}),
        lambda s: lambda o: s.MultiStepLR(o, [10, 25], gamma=0.5),
    ),
    (
        "ExponentialLR",
        optax.exponential_decay(0.1, 1, 0.9),
        lambda s: lambda o: s.ExponentialLR(o, 0.9),
    ),
    (
        "LambdaLR",
        lambda step: 0.1 * (1 - step / 100),
        lambda s: lambda o: s.LambdaLR(o, lambda step: 1 - step / 100),
    ),
    (
        "LinearLR",
        optax.linear_schedule(0.1 / 3, 0.1, 5),
        lambda s: lambda o: s.LinearLR(o, start_factor=1 / 3, total_iters=5),
    ),
    (
        "CosineAnnealingLR",
        optax.cosine_decay_schedule(0.1, 39, alpha=0.01 / 0.1),
        lambda s: lambda o: s.CosineAnnealingLR(o, T_max=39, eta_min=0.01),
    ),
    (
        "OneCycleLR",
        optax.cosine_onecycle_schedule(40 - 1, 0.1, 0.3, 25.0, 1e4),
        lambda s: lambda o: s.OneCycleLR(o, 0.1, total_steps=40, pct_start=0.3),
    ),
]


@pytest.mark.parametrize(
    ("schedule", "make"), [row[1:] for row in TORCH], ids=[r[0] for r in TORCH]
)
def test_pytorch_s_schedulers(schedule: Any, make: Any) -> None:
    torch = peer("torch", "torch")
    optimizer = torch.optim.RMSprop([torch.ones(1)], lr=0.1)
    scheduler = make(torch.optim.lr_scheduler)(optimizer)
    theirs = []
    for _ in range(40):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    mine = [float(schedule(t)) for t in range(40)]
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-8)


KERAS: list[tuple[str, dict[str, Any], Any]] = [
    (
        "ExponentialDecay",
        dict(decay_steps=10, decay_rate=0.5),
        optax.exponential_decay(0.1, 10, 0.5),
    ),
    (
        "ExponentialDecay",
        dict(decay_steps=10, decay_rate=0.5, staircase=True),
        optax.exponential_decay(0.1, 10, 0.5, staircase=True),
    ),
    (
        "CosineDecay",
        dict(decay_steps=30, alpha=0.1),
        optax.cosine_decay_schedule(0.1, 30, alpha=0.1),
    ),
    (
        "PolynomialDecay",
        dict(decay_steps=20, end_learning_rate=0.01, power=2.0),
        optax.polynomial_schedule(0.1, 0.01, 2.0, 20),
    ),
    (
        "InverseTimeDecay",
        dict(decay_steps=10, decay_rate=0.5),
        lambda step: 0.1 / (1 + 0.5 * step / 10),
    ),
    (
        "PiecewiseConstantDecay",
        dict(boundaries=[10, 25], values=[0.1, 0.05, 0.01]),
        optax.join_schedules([lambda _, v=v: v for v in (0.1, 0.05, 0.01)], [11, 26]),
    ),
]


@pytest.mark.parametrize(("name", "arguments", "schedule"), KERAS)
def test_keras_s_schedules(name: str, arguments: Any, schedule: Any) -> None:
    keras = peer("keras", "keras")
    rate = {} if "boundaries" in arguments else {"initial_learning_rate": 0.1}
    theirs = getattr(keras.optimizers.schedules, name)(**rate, **arguments)
    for t in range(40):
        np.testing.assert_allclose(float(schedule(t)), float(theirs(t)), rtol=1e-5)
