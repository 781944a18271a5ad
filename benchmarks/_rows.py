"""The steps on one leaf that the suite `compiled` compiles, and their goals."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks import _limit
from benchmarks._devices import DEVICES, H200, V5E, V6E
from rmsprop_optax import (
    MomentStorage,
    apply_updates_stochastic,
    cautious,
    dynamic_loss_scale,
    in_float32,
    low_precision,
    rmsprop,
    skip_nonfinite,
)

RATE = 1e-3
Goal = tuple[float, float]  # at most so many bytes moved, and temporary, a parameter
Transformation = optax.GradientTransformation

INT8_RMSPROP, INT8_MOMENTUM = (24.5, 1.1), (34.0, 2.1)
INT8_ADAM, NARROW = (33.0, 2.1), (16.5, 0.0)
ONE_LOOP, ONE_LOOP_ADAM = (24.0, 0.0), (32.0, 0.0)


def _on_all(goal: Goal) -> dict[str, Goal]:
    return dict.fromkeys(DEVICES, goal)


def _goals(tpu: Goal | None, gpu: Goal | None) -> dict[str, Goal]:
    named = {V5E.name: tpu, V6E.name: tpu, H200.name: gpu}
    return {name: goal for name, goal in named.items() if goal is not None}


class Row(NamedTuple):
    """A step of this library on one leaf, and Optax's counterpart.

    Attributes:
      tx: The transformation.
      peer: The name of Optax's, and it.
      shape: Of the leaf; None: a matrix that fills the device.
      dtype: Of parameters and gradients.
      readings: Of the gradients. Two, where something about all of them comes first.
      step: Like `_limit.step`.
      goals: By the name of the device.
    """

    tx: Transformation
    peer: tuple[str, Transformation] | None = None
    shape: tuple[int, ...] | None = None
    dtype: Any = jnp.float32
    readings: int = 1
    step: Callable[..., Any] = _limit.step
    goals: Mapping[str, Goal] = MappingProxyType({})


def _step_stochastic(tx: Transformation, held: Any, grads: Any) -> Any:
    """A step whose parameters are rounded up or down at random."""
    params, state = held
    updates, state = tx.update(grads, state, params)
    return apply_updates_stochastic(params, updates, jax.random.key(0)), state


def _optax_rmsprop(name: str = "", **options: Any) -> tuple[str, Transformation]:
    return f"optax.rmsprop{name}", optax.rmsprop(RATE, **options)


OPTAX_ADAM = "optax.adam", optax.adam(RATE)
EVERYTHING = {
    "momentum": 0.9,
    "centered": True,
    "nesterov": True,
    "weight_decay": 0.01,
    "global_clipnorm": 1.0,
    "use_ema": True,
}
DENSE = {
    "rmsprop": Row(rmsprop(RATE), _optax_rmsprop()),
    "momentum": Row(
        rmsprop(RATE, momentum=0.9), _optax_rmsprop(", momentum", momentum=0.9)
    ),
    "centered": Row(
        rmsprop(RATE, centered=True), _optax_rmsprop(", centered", centered=True)
    ),
    "centered, momentum": Row(
        rmsprop(RATE, centered=True, momentum=0.9),
        _optax_rmsprop(", centered, momentum", centered=True, momentum=0.9),
    ),
    "centered, Nesterov momentum, weight decay, global norm, EMA": Row(
        rmsprop(RATE, **EVERYTHING), readings=2
    ),
}


def _finite(inner: Transformation) -> Transformation:
    return optax.apply_if_finite(inner, 5)


MULTI_STEPS = optax.MultiSteps(optax.rmsprop(RATE), 4)
WRAPPERS = {
    "skip_nonfinite": Row(
        rmsprop(RATE, skip_nonfinite=True),
        ("optax.apply_if_finite", _finite(optax.rmsprop(RATE))),
        readings=2,
        goals=_on_all(ONE_LOOP),
    ),
    "skip_nonfinite, Adam": Row(
        skip_nonfinite(optax.adam(RATE)),
        ("optax.apply_if_finite, Adam", _finite(optax.adam(RATE))),
        readings=2,
        goals=_on_all(ONE_LOOP_ADAM),
    ),
    "dynamic_loss_scale": Row(
        dynamic_loss_scale(rmsprop(RATE)), readings=2, goals=_on_all(ONE_LOOP)
    ),
    "dynamic_loss_scale, Adam": Row(
        dynamic_loss_scale(optax.adam(RATE)), readings=2, goals=_on_all(ONE_LOOP_ADAM)
    ),
    "gradient_accumulation_steps=4": Row(
        rmsprop(RATE, gradient_accumulation_steps=4),
        ("optax.MultiSteps", MULTI_STEPS.gradient_transformation()),
        goals=_goals(None, (28.0, 0.0)),
    ),
    "global_clipnorm": Row(
        rmsprop(RATE, global_clipnorm=1.0),
        (
            "optax.clip_by_global_norm",
            optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(RATE)),
        ),
        readings=2,
    ),
    "clipnorm": Row(rmsprop(RATE, clipnorm=1.0), readings=2),
    "use_ema": Row(rmsprop(RATE, use_ema=True)),
    "cautious, momentum": Row(cautious(rmsprop(RATE, momentum=0.9))),
}
SHORT = {
    "rmsprop, bfloat16 parameters": Row(
        rmsprop(RATE), _optax_rmsprop(", bfloat16 moments"), dtype=jnp.bfloat16
    ),
    "rmsprop, apply_updates_stochastic": Row(
        rmsprop(RATE), dtype=jnp.bfloat16, step=_step_stochastic
    ),
    "in_float32(optax.adam)": Row(
        in_float32(optax.adam(RATE)),
        ("optax.adam, bfloat16 moments", optax.adam(RATE)),
        dtype=jnp.bfloat16,
    ),
}


def _storage() -> dict[str, Row]:
    """Narrow moments on a matrix, beside Optax's transformation in float32."""
    both = {"centered": True, "momentum": 0.9}
    made: dict[str, tuple[Callable[[Any], Transformation], Any]] = {
        "rmsprop": (partial(_stored), _optax_rmsprop()),
        "momentum": (
            partial(_stored, momentum=0.9),
            _optax_rmsprop(", momentum", momentum=0.9),
        ),
        "centered, momentum": (
            partial(_stored, **both),
            _optax_rmsprop(", centered, momentum", **both),
        ),
        "Adam": (partial(low_precision, optax.adam(RATE)), OPTAX_ADAM),
    }
    goals = {
        ("int8", "rmsprop"): _goals(INT8_RMSPROP, (19.5, 0.2)),
        ("int8", "momentum"): _goals(INT8_MOMENTUM, (25.5, 0.6)),
        ("int8", "centered, momentum"): _goals(None, (25.5, 0.6)),
        ("int8", "Adam"): _goals(INT8_ADAM, (23.2, 0.4)),
        ("bfloat16", "rmsprop"): _on_all(NARROW),
        ("float16", "rmsprop"): _on_all(NARROW),
    }
    return {
        f"{kind}, {name}": Row(make(kind), peer, goals=goals.get((kind, name), {}))
        for kind in ("int8", "bfloat16", "float16")
        for name, (make, peer) in made.items()
    }


def _stored(storage: Any, **options: Any) -> Transformation:
    return rmsprop(RATE, moment_storage=storage, **options)


STORAGE = _storage()
LEAVES: dict[str, tuple[int, ...]] = {
    "a vector of 2^26": (2**26,),
    "a convolution (3, 3, 2048, 2048)": (3, 3, 2048, 2048),
    "a tall table (1000000, 128)": (1_000_000, 128),
    "an output layer (4096, 50304)": (4096, 50_304),
    "odd columns (4096, 50257)": (4096, 50_257),
    "odd rows (50257, 4096)": (50_257, 4096),
}
# Arrays of one axis are stored in full, if not told otherwise.
BLOCKS = {
    "blocks of 128": MomentStorage("int8", min_size=0),
    "a scale a row": MomentStorage("int8", block_size="row", min_size=0),
}
SHAPES = {
    f"{leaf}, {blocks}": Row(_stored(storage), shape=shape)
    for (leaf, shape), (blocks, storage) in product(LEAVES.items(), BLOCKS.items())
}
GROUPS = {
    "Dense steps": DENSE,
    "Wrappers": WRAPPERS,
    "Parameters and gradients in bfloat16": SHORT,
    "Low-precision state, beside Optax in float32": STORAGE,
    "8-bit `rmsprop` on other shapes": SHAPES,
}
QUICK = list(GROUPS)[:-1]
# Why a row misses its goal: of the program, not of the device.
REASONS = {
    ("int8, centered, momentum", H200.name): "two loops that move 25.0, and the scales",
}
