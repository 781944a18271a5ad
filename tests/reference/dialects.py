"""Each dialect line by line in NumPy, as its framework's source reads.

For machines without the frameworks, and as a text to compare the source with. Centered
variants cancel here just as they do there.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.parity._problem import Leaves, Problem

Array = Any
Step = Callable[[Array, Array, dict[str, Array], Any], Array]


def _run(step: Step, problem: Problem, rates: Any, rate: Any, start: float) -> Leaves:
    made = {}
    for name, p in problem.params.items():
        zeros = np.zeros_like(p)
        slots = {"v": zeros + p.dtype.type(start), "m": zeros, "b": zeros}
        path = []
        for t, g in enumerate(problem.grads[name]):
            p = step(p, g, slots, p.dtype.type(rate if rates is None else rates[t]))
            path.append(p)
        made[name] = np.stack(path)
    return made


def torch(
    problem: Problem,
    rates: Any = None,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0,
    momentum: float = 0,
    centered: bool = False,
    maximize: bool = False,
    foreach: bool | None = None,
) -> Leaves:
    del foreach

    def step(p: Array, g: Array, slots: dict[str, Array], rate: Any) -> Array:
        if maximize:
            g = -g
        if weight_decay != 0:
            g = g + weight_decay * p
        slots["v"] = alpha * slots["v"] + (1 - alpha) * g * g
        if centered:
            slots["m"] = slots["m"] + (1 - alpha) * (g - slots["m"])
            s = np.sqrt(slots["v"] - slots["m"] * slots["m"]) + eps
        else:
            s = np.sqrt(slots["v"]) + eps
        if momentum > 0:
            slots["b"] = momentum * slots["b"] + g / s
            return p - rate * slots["b"]
        return p - rate * (g / s)

    return _run(step, problem, rates, lr, 0.0)


def timm(
    problem: Problem,
    rates: Any = None,
    *,
    lr: float = 1e-2,
    alpha: float = 0.9,
    eps: float = 1e-10,
    weight_decay: float = 0,
    momentum: float = 0.0,
    centered: bool = False,
    decoupled_decay: bool = False,
    corrected_weight_decay: bool = False,
    lr_in_momentum: bool = True,
    caution: bool = False,
    foreach: bool | None = None,
) -> Leaves:
    del foreach

    def cautious(b: Array, g: Array) -> Array:
        mask = (b * g > 0).astype(g.dtype)
        return b * (mask / max(mask.mean(), 1e-3))

    def step(p: Array, g: Array, slots: dict[str, Array], rate: Any) -> Array:
        if weight_decay != 0:
            if decoupled_decay:
                scale = rate**2 / lr if corrected_weight_decay else rate
                p = p * (1 - scale * weight_decay)
            else:
                g = g + weight_decay * p
        slots["v"] = slots["v"] + (1 - alpha) * (g * g - slots["v"])
        variance = slots["v"]
        if centered:
            slots["m"] = slots["m"] + (1 - alpha) * (g - slots["m"])
            variance = slots["v"] - slots["m"] * slots["m"]
        s = np.sqrt(variance + eps)
        if not momentum > 0:
            return p - rate * g / s
        gain = rate if lr_in_momentum else 1
        slots["b"] = b = momentum * slots["b"] + gain * g / s
        if caution:
            b = cautious(b, g)
        return p - (b if lr_in_momentum else rate * b)

    return _run(step, problem, rates, lr, 1.0)


def tf1(
    problem: Problem,
    rates: Any = None,
    *,
    learning_rate: float,
    decay: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-10,
    centered: bool = False,
) -> Leaves:
    def step(p: Array, g: Array, slots: dict[str, Array], rate: Any) -> Array:
        slots["v"] = slots["v"] + (g * g - slots["v"]) * (1 - decay)
        variance = slots["v"]
        if centered:
            slots["m"] = slots["m"] + (g - slots["m"]) * (1 - decay)
            variance = slots["v"] - slots["m"] * slots["m"]
        slots["b"] = momentum * slots["b"] + rate * g / np.sqrt(variance + epsilon)
        return p - slots["b"]

    return _run(step, problem, rates, learning_rate, 1.0)


def tf_keras(
    problem: Problem,
    rates: Any = None,
    *,
    learning_rate: float = 0.001,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
    decay: float = 0.0,
    clipvalue: float | None = None,
    clipnorm: float | None = None,
    global_clipnorm: float | None = None,
) -> Leaves:
    clipped = dict(problem.grads)
    if clipvalue is not None:
        clipped = {n: np.clip(g, -clipvalue, clipvalue) for n, g in clipped.items()}
    squares = {n: (g.reshape(len(g), -1) ** 2).sum(axis=1) for n, g in clipped.items()}
    if global_clipnorm is not None:
        total = np.sqrt(sum(squares.values()))
        squares = dict.fromkeys(squares, total**2)
    limit = clipnorm if clipnorm is not None else global_clipnorm
    if limit is not None:
        for n, g in clipped.items():
            factor = limit / np.maximum(np.sqrt(squares[n]), limit)
            clipped[n] = (g.T * factor.astype(g.dtype)).T
    steps = np.arange(problem.steps)
    if rates is None:
        rates = np.full(problem.steps, learning_rate)
    rates = np.asarray(rates) / (1 + decay * steps)

    def step(p: Array, g: Array, slots: dict[str, Array], rate: Any) -> Array:
        slots["v"] = rho * slots["v"] + (1 - rho) * g * g
        variance = slots["v"]
        if centered:
            slots["m"] = rho * slots["m"] + (1 - rho) * g
            variance = slots["v"] - slots["m"] * slots["m"]
        if momentum > 0:
            slots["b"] = momentum * slots["b"] + rate * g / np.sqrt(variance + epsilon)
            return p - slots["b"]
        return p - rate * g / (np.sqrt(variance) + epsilon)

    return _run(step, Problem(problem.params, clipped), rates, learning_rate, 0.0)
