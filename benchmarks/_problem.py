"""Parameters, gradients and hyperparameters, the same for every framework."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LEARNING_RATE, DECAY, EPSILON = 1e-2, 0.9, 1e-7
CLIP, WEIGHT_DECAY, EMA = 1.0, 1e-2, 0.99

Shapes = Sequence[tuple[int, ...]]
SMALL: Shapes = ((3, 50), (257,), (4, 4, 8))


class Configuration(NamedTuple):
    """RMSprop; with extras: clipped global norm, weight decay, average of the weights."""

    name: str
    momentum: float = 0.0
    centered: bool = False
    extras: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of Keras's class, which are also those of `rmsprop_optax.rmsprop`."""
        return {
            "learning_rate": LEARNING_RATE,
            "rho": DECAY,
            "momentum": self.momentum,
            "epsilon": EPSILON,
            "centered": self.centered,
            "weight_decay": WEIGHT_DECAY if self.extras else None,
            "global_clipnorm": CLIP if self.extras else None,
            "use_ema": self.extras,
            "ema_momentum": EMA,
        }


PLAIN = Configuration("plain")
MOMENTUM = Configuration("momentum", momentum=0.9)
CENTERED = Configuration("centered", centered=True)
BOTH = Configuration("centered + momentum", momentum=0.9, centered=True)
EVERYTHING = Configuration("everything", momentum=0.9, centered=True, extras=True)
CONFIGURATIONS = (PLAIN, MOMENTUM, CENTERED, BOTH, EVERYTHING)


class Problem:
    """Parameters, and sets of gradients in turn: with one set a variance decays to 0."""

    def __init__(self, params: list[np.ndarray], grads: list[list[np.ndarray]]) -> None:
        self.params, self.grads = params, grads

    @classmethod
    def normal(cls, shapes: Shapes) -> "Problem":
        """Parameters and two sets of gradients, from the standard normal distribution."""
        rng = np.random.default_rng(0)
        sets = [[rng.standard_normal(s, np.float32) for s in shapes] for _ in range(3)]
        return cls(sets[0], sets[1:])

    @property
    def size(self) -> int:
        """The number of values in all leaves."""
        return sum(p.size for p in self.params)

    @cached_property
    def device_grads(self) -> list[list[jax.Array]]:
        """As JAX arrays. Contenders share them: no step donates them."""
        return [[jnp.asarray(g) for g in grads] for grads in self.grads]

    def device_params(self) -> list[jax.Array]:
        """Copies, for one contender that donates them to its step."""
        return [jnp.array(p, copy=True) for p in self.params]
