"""Every dialect: its peers, and random draws of its arguments.

Numbers are drawn as float32 holds them: TensorFlow and Keras keep hyperparameters in
float32, also beside float64 variables.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rmsprop_optax import dialects
from tests.parity import _peers
from tests.parity._problem import Peer
from tests.reference import dialects as reference

Draw = Callable[[np.random.Generator], dict[str, Any]]


class Dialect(NamedTuple):
    """A row: our function, the real ones, and what to call both with."""

    ours: Callable[..., Any]
    peers: dict[str, Peer]
    draw: Draw
    rate_name: str = "learning_rate"


def _f32(value: float) -> float:
    return float(np.float32(value))


def _rate(rng: np.random.Generator) -> float:
    return _f32(10 ** rng.uniform(-4, -2))


def _decay(rng: np.random.Generator) -> float:
    return _f32(rng.uniform(0.5, 0.99))


def _one_of(rng: np.random.Generator, *values: Any) -> Any:
    value = values[rng.integers(len(values))]
    return _f32(value) if isinstance(value, float) else value


def _common(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "momentum": _one_of(rng, 0.0, 0.5, 0.9),
        "centered": _one_of(rng, False, True),
    }


def _draw_keras(rng: np.random.Generator) -> dict[str, Any]:
    clip = _one_of(rng, None, "clipnorm", "clipvalue", "global_clipnorm")
    return {
        "learning_rate": _rate(rng),
        "rho": _decay(rng),
        "epsilon": _one_of(rng, 1e-7, 1e-3, 1.0),
        "weight_decay": _one_of(rng, None, 0.01),
        **_common(rng),
        **({clip: 1.0} if clip else {}),
    }


def _draw_tf_keras(rng: np.random.Generator) -> dict[str, Any]:
    drawn = _draw_keras(rng)
    del drawn["weight_decay"]
    return drawn | {"decay": _one_of(rng, 0.0, 0.01)}


def _draw_tf_keras_2_11(rng: np.random.Generator) -> dict[str, Any]:
    drawn = _draw_keras(rng)
    averages = _one_of(rng, {}, {"use_ema": True, "ema_momentum": 0.5})
    frequency = {"ema_overwrite_frequency": _one_of(rng, None, 7)}
    drawn |= averages | (averages and _one_of(rng, {}, frequency))
    return drawn


def _draw_tf1(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "learning_rate": _rate(rng),
        "decay": _decay(rng),
        "epsilon": _one_of(rng, 1e-10, 1e-3, 1.0),
        **_common(rng),
    }


def _draw_torch(rng: np.random.Generator) -> dict[str, Any]:
    drawn = {
        "lr": _rate(rng),
        "alpha": _decay(rng),
        "eps": _one_of(rng, 1e-8, 1e-3, 1.0),
        "maximize": _one_of(rng, False, True),
        "foreach": _one_of(rng, None, False, True),
        **_common(rng),
    }
    return drawn | {"weight_decay": _one_of(rng, 0, 0.001)}


def _draw_timm(rng: np.random.Generator) -> dict[str, Any]:
    drawn = _draw_torch(rng)
    del drawn["maximize"]
    return drawn | {
        "eps": _one_of(rng, 1e-10, 1e-3, 1.0),
        "decoupled_decay": _one_of(rng, False, True),
        "lr_in_momentum": _one_of(rng, True, False),
        "caution": _one_of(rng, False, True),
    }


def _draw_optax(rng: np.random.Generator) -> dict[str, Any]:
    drawn = _draw_tf1(rng)
    drawn["eps"] = drawn.pop("epsilon")
    return drawn | {
        "initial_scale": _one_of(rng, 0.0, 1.0),
        "eps_in_sqrt": _one_of(rng, True, False),
        "nesterov": _one_of(rng, True, False),
        # Optax's corrected variance of a first gradient is the rounding of 0.
        "bias_correction": not drawn["centered"] and _one_of(rng, True, False),
    }


TABLE = {
    "keras": Dialect(dialects.keras, {"keras": _peers.keras}, _draw_keras),
    "tf_keras": Dialect(
        dialects.tf_keras,
        {"tf_keras": _peers.tf_keras, "reference": reference.tf_keras},
        _draw_tf_keras,
    ),
    "tf_keras_2_11": Dialect(
        dialects.tf_keras_2_11, {"tf_keras": _peers.tf_keras_2_11}, _draw_tf_keras_2_11
    ),
    "tf1": Dialect(
        dialects.tf1,
        {
            "tf.compat.v1": _peers.tf1,
            "tf.raw_ops": _peers.tf_kernels,
            "reference": reference.tf1,
        },
        _draw_tf1,
    ),
    "torch": Dialect(
        dialects.torch,
        {"torch": _peers.torch, "reference": reference.torch},
        _draw_torch,
        "lr",
    ),
    "timm": Dialect(
        dialects.timm,
        {"timm": _peers.timm, "reference": reference.timm},
        _draw_timm,
        "lr",
    ),
    "optax": Dialect(dialects.optax, {"optax": _peers.optax}, _draw_optax),
}


def decades(arguments: dict[str, Any]) -> int:
    """Over how many orders of magnitude gradients may go.

    Beside gradients of 1e-6 an L2 penalty is all that is normalized, and a parameter near
    0 then swings in full steps by the sign of its last bit, in any arithmetic.
    """
    coupled = "lr" in arguments and not arguments.get("decoupled_decay")
    return 1 if coupled and arguments["weight_decay"] else 12


def draw_rates(rng: np.random.Generator, arguments: dict[str, Any], steps: int) -> Any:
    """None, or a rate for each step that changes in mid-run, up and down."""
    if rng.integers(2) or arguments.get("corrected_weight_decay"):
        return None
    base = next(arguments[n] for n in ("learning_rate", "lr") if n in arguments)
    factors = rng.uniform(0.1, 2.0, size=6)[np.arange(steps) * 6 // steps]
    return np.asarray(base * factors, np.float32).astype(np.float64)
