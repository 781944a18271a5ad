"""Schedules of the learning rate, from what PyTorch and Keras save of them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._types import Schedule
from rmsprop_optax.interchange._foreign import RefusedError, as_number, reading

Saved = Mapping[str, Any]


def keras_schedule(saved: Saved) -> Schedule:
    """The schedule of a configuration as `keras.optimizers.schedules.serialize` has it.

    Raises:
      ValueError: For one that is not known here.
    """
    with reading("The schedule of the Keras run"):
        name, config = saved["class_name"], saved["config"]
        if name not in _KERAS or config.get("cycle"):
            raise RefusedError(
                f"The schedule {name!r} of the Keras run is not known here, with the "
                f"configuration {config!r}: give `learning_rate`, an Optax schedule of "
                f"the calls. Known are {list(_KERAS)}."
            )
        schedule = _KERAS[name](config)
        jnp.asarray(schedule(0))
    return schedule


def torch_schedule(saved: Saved, group: Saved, index: int) -> Schedule:
    """The rate of a parameter group by steps of a scheduler, which saves no name.

    Raises:
      ValueError: For one that is not known here, or whose rate is not that of the group.
    """
    with reading("The scheduler of the run", " as one of PyTorch's"):
        schedule = _torch_schedule(saved, group, index)
        now = float(jnp.asarray(schedule(saved["last_epoch"])))
        rate = as_number(group["lr"], f"`lr` of `param_groups[{index}]`")
        if abs(now - rate) > 1e-5 * max(rate, group.get("initial_lr", 0.0)):
            raise RefusedError(
                f"`lr` of `param_groups[{index}]` is {rate!r}, and that of the scheduler "
                f"at its step {saved['last_epoch']} is {now:.6g}: give `lr`."
            )
    return schedule


def _torch_schedule(saved: Saved, group: Saved, index: int) -> Schedule:
    if {"_milestones", "_schedulers"} <= set(saved):  # SequentialLR
        parts: list[Any] = [
            _torch_schedule(part, group, index) for part in saved["_schedulers"]
        ]
        return optax.join_schedules(parts, list(saved["_milestones"]))
    if saved.get("cycle_momentum"):
        raise RefusedError(
            "OneCycleLR with `cycle_momentum=True` changes the momentum too, which is a "
            "number here."
        )
    if "_schedule_phases" in saved:  # OneCycleLR
        return _one_cycle(saved, group)
    options = sorted({name for name in saved if name[0] != "_"} - _COUNTERS)
    schedule = _TORCH.get(" ".join(options))
    if schedule is None:
        raise RefusedError(
            f"The scheduler of the run, with the options {options}, is not known here, "
            "or its functions are not saved (LambdaLR): give `lr`, an Optax schedule of "
            "the updates, such as `lambda step: 0.1 * f(step)`."
        )
    return schedule(saved, saved["base_lrs"][index])


def _cosine_with_warmup(config: Saved) -> Schedule:
    start, target = config["initial_learning_rate"], config.get("warmup_target")
    steps, alpha = config["decay_steps"], config["alpha"]
    if target is None:
        return optax.cosine_decay_schedule(start, steps, alpha)
    warmup = config["warmup_steps"]
    return optax.warmup_cosine_decay_schedule(
        start, target, warmup, warmup + steps, target * alpha
    )


def _inverse_time(config: Saved) -> Schedule:
    def schedule(step: Any) -> jax.Array:
        p = step / config["decay_steps"]
        p = jnp.floor(p) if config["staircase"] else p
        return config["initial_learning_rate"] / (1 + config["decay_rate"] * p)

    return schedule


def _piecewise(config: Saved) -> Schedule:
    values = [optax.constant_schedule(value) for value in config["values"]]
    # Keras's boundary is the last step of the old value, Optax's the first of the new.
    return optax.join_schedules(values, [b + 1 for b in config["boundaries"]])


def _annealing(start: Any, end: Any, part: Any) -> Any:
    return end + (start - end) * (1 + jnp.cos(jnp.pi * part)) / 2


def _one_cycle(saved: Saved, group: Saved) -> Schedule:
    phases = saved["_schedule_phases"]
    starts = [0, *(phase["end_step"] for phase in phases)]
    linear = saved["_anneal_func_type"] == "linear"

    def schedule(step: Any) -> Any:
        rate: Any = None
        for start, phase in reversed(list(zip(starts, phases, strict=False))):
            part = (step - start) / (phase["end_step"] - start)
            a, b = group[phase["start_lr"]], group[phase["end_lr"]]
            now = a + (b - a) * part if linear else _annealing(a, b, part)
            rate = now if rate is None else jnp.where(part <= 1, now, rate)
        return rate

    return schedule


_KERAS: Mapping[Any, Callable[[Saved], Schedule]] = {
    "CosineDecay": _cosine_with_warmup,
    "ExponentialDecay": lambda c: optax.exponential_decay(
        c["initial_learning_rate"],
        c["decay_steps"],
        c["decay_rate"],
        staircase=c["staircase"],
    ),
    "InverseTimeDecay": _inverse_time,
    "PiecewiseConstantDecay": _piecewise,
    "PolynomialDecay": lambda c: optax.polynomial_schedule(
        c["initial_learning_rate"], c["end_learning_rate"], c["power"], c["decay_steps"]
    ),
}

# By the options of a scheduler; the rate is that of the group at first.
_TORCH: Mapping[str, Callable[[Saved, Any], Schedule]] = {
    "T_max eta_min": lambda s, rate: (  # it goes up again after T_max
        lambda step: _annealing(rate, s["eta_min"], step / s["T_max"])
    ),
    "end_factor start_factor total_iters": lambda s, rate: optax.linear_schedule(
        rate * s["start_factor"], rate * s["end_factor"], s["total_iters"]
    ),
    "factor total_iters": lambda s, rate: (
        lambda step: jnp.where(step < s["total_iters"], rate * s["factor"], rate)
    ),
    "gamma": lambda s, rate: optax.exponential_decay(rate, 1, s["gamma"]),
    "gamma milestones": lambda s, rate: optax.piecewise_constant_schedule(
        rate, {step: s["gamma"] ** n for step, n in s["milestones"].items()}
    ),
    "gamma step_size": lambda s, rate: optax.exponential_decay(
        rate, s["step_size"], s["gamma"], staircase=True
    ),
    "power total_iters": lambda s, rate: optax.polynomial_schedule(
        rate, 0.0, s["power"], s["total_iters"]
    ),
}
_COUNTERS = {"base_lrs", "last_epoch", "verbose"}
