"""What a step is made on, and how it is asked for: the same for every framework."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

LEARNING_RATE, DECAY, EPSILON = 1e-2, 0.9, 1e-7
SETS = 2  # of gradients, in turn: after equal ones a variance would go down to zero


@dataclass(frozen=True)
class Configuration:
    """Which RMSprop.

    Attributes:
      name: For people.
      momentum: Of the update; 0: none.
      centered: Whether the variance is taken.
      clip: The largest norm of all gradients together.
      ema: The decay of the average of the weights.
      decay: Of the weights, decoupled.
    """

    name: str
    momentum: float = 0.0
    centered: bool = False
    clip: float | None = None
    ema: float | None = None
    decay: float | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of Keras's class, which are those of this library's factory too."""
        return {
            "learning_rate": LEARNING_RATE,
            "rho": DECAY,
            "momentum": self.momentum,
            "epsilon": EPSILON,
            "centered": self.centered,
            "weight_decay": self.decay,
            "global_clipnorm": self.clip,
            "use_ema": self.ema is not None,
            "ema_momentum": self.ema if self.ema is not None else 0.99,
        }

    @property
    def has_extras(self) -> bool:
        """Whether it is more than RMSprop."""
        return (self.clip, self.ema, self.decay) != (None, None, None)


class Problem(NamedTuple):
    """Parameters, and sets of gradients for them."""

    params: list[np.ndarray]
    grads: list[list[np.ndarray]]


class Update(Protocol):
    """Parameters and a state in memory of their own, and the step that moves them on."""

    def prepare(self, which: int) -> Any:
        """The set of gradients of that number, as the step wants it."""
        ...

    def __call__(self, grads: Any) -> None:
        """One step, to its end."""
        ...

    def values(self) -> list[np.ndarray]:
        """The parameters, and behind them their averages, where there are any."""
        ...


def problem(shapes: Sequence[tuple[int, ...]], seed: int = 0) -> Problem:
    """Normal gradients: no mean that would drown the variance of those who subtract."""
    rng = np.random.default_rng(seed)

    def draw() -> list[np.ndarray]:
        return [rng.standard_normal(shape, np.float32) for shape in shapes]

    return Problem(draw(), [draw() for _ in range(SETS)])


def which(rng: np.random.Generator) -> int:
    """A set of gradients."""
    return int(rng.integers(SETS))
