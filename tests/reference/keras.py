"""Keras 3's RMSprop, line by line in NumPy, in the dtype that it is given.

Read beside `keras/src/optimizers/rmsprop.py` and `base_optimizer.py` of Keras 3.15.
The one thing that is not Keras's is the centered denominator, which is the variance of
the weighted past itself instead of the difference of two means: in float64 both agree.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

Tree = dict[str, np.ndarray]


class KerasRMSprop:
    """The optimizer as Keras holds it: variables that each step assigns."""

    def __init__(
        self,
        params: Tree,
        learning_rate: float | Callable[[int], float] = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        exclude: tuple[str, ...] = (),
    ) -> None:
        self.arguments: dict[str, Any] = dict(locals())
        self.params = {name: np.array(p) for name, p in params.items()}
        self.velocity = {name: np.zeros_like(p) for name, p in params.items()}
        self.mean = {name: np.zeros_like(p) for name, p in params.items()}
        self.trace = {name: np.zeros_like(p) for name, p in params.items()}
        self.average = {name: np.zeros_like(p) for name, p in params.items()}
        self.accumulated = {name: np.zeros_like(p) for name, p in params.items()}
        self.calls = 0

    def apply(self, grads: Tree) -> Tree:
        """One call of Keras's `apply`: the parameters after it."""
        a = self.arguments
        scale = a["loss_scale_factor"] or 1.0
        k = a["gradient_accumulation_steps"] or 1
        grads = {name: g / scale for name, g in grads.items()}
        if (self.calls + 1) % k == 0:
            mean = {n: (g + self.accumulated[n]) / k for n, g in grads.items()}
            self._step(self._clip(mean))
            self.accumulated = {n: np.zeros_like(g) for n, g in grads.items()}
        else:
            self.accumulated = {n: g + self.accumulated[n] for n, g in grads.items()}
        if a["use_ema"]:
            self._average(self.calls // k)
        self.calls += 1
        return {name: np.array(p) for name, p in self.params.items()}

    def _clip(self, grads: Tree) -> Tree:
        a = self.arguments
        if a["clipnorm"]:
            return {n: g * _factor(np.sum(g**2), a["clipnorm"]) for n, g in grads.items()}
        if a["global_clipnorm"]:
            total = sum(np.sum(g**2) for g in grads.values())
            factor = _factor(total, a["global_clipnorm"])
            return {n: g * factor for n, g in grads.items()}
        if a["clipvalue"]:
            bound = a["clipvalue"]
            return {n: np.clip(g, -bound, bound) for n, g in grads.items()}
        return grads

    def _step(self, grads: Tree) -> None:
        a = self.arguments
        rate = a["learning_rate"]
        lr = rate(self.calls) if callable(rate) else rate
        for name, g in grads.items():
            p = self.params[name]
            decays = not any(re.search(pattern, name) for pattern in a["exclude"])
            if a["weight_decay"] is not None and decays:
                p = p - p * a["weight_decay"] * lr
            increment = lr * g / np.sqrt(self._moment(name, g) + a["epsilon"])
            self.trace[name] = a["momentum"] * self.trace[name] + increment
            self.params[name] = (p - self.trace[name]).astype(p.dtype)

    def _moment(self, name: str, g: np.ndarray) -> np.ndarray:
        rho = self.arguments["rho"]
        if not self.arguments["centered"]:
            self.velocity[name] = rho * self.velocity[name] + (1 - rho) * g**2
            return self.velocity[name]
        deviation = g - self.mean[name]
        self.velocity[name] = rho * (self.velocity[name] + (1 - rho) * deviation**2)
        self.mean[name] = self.mean[name] + (1 - rho) * deviation
        return self.velocity[name]

    def _average(self, iteration: int) -> None:
        a = self.arguments
        momentum = a["ema_momentum"] if iteration != 0 else 0.0
        for name, p in self.params.items():
            ema = momentum * self.average[name] + (1 - momentum) * p
            self.average[name] = ema.astype(p.dtype)
        frequency = a["ema_overwrite_frequency"]
        if frequency is not None and (iteration + 1) % frequency == 0:
            self.params = {name: np.array(e) for name, e in self.average.items()}


def _factor(total: Any, max_norm: float) -> float:
    return min(1.0, max_norm / math.sqrt(total)) if total > 0 else 1.0
