"""A step that JAX compiles, with parameters and state donated to it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._problem import Configuration, Problem
from rmsprop_optax import finalize, rmsprop

Grads = list[list[jax.Array]]
Step = Callable[[Any, Any], Any]


class JittedUpdate:
    """`benchmarks._problem.Update` of a step from (what is held, gradients) to held."""

    def __init__(
        self,
        held: Any,
        step: Step,
        grads: Grads,
        values: Callable[[Any], list[jax.Array]] = lambda held: held[0],
    ) -> None:
        self._held, self._grads, self._values = held, grads, values
        self._step = jax.jit(step, donate_argnums=0)

    def prepare(self, which: int) -> list[jax.Array]:
        """The gradients are on the device already."""
        return self._grads[which]

    def __call__(self, grads: list[jax.Array]) -> None:
        """All results of a program are there when one is, here the first parameter."""
        self._held = self._step(self._held, grads)
        self._held[0][0].block_until_ready()

    def values(self) -> list[np.ndarray]:
        """The parameters, and behind them their averages, where there are any."""
        return [np.asarray(value) for value in self._values(self._held)]


def to_device(problem: Problem) -> Grads:
    """The gradients, which all contenders of a process may share: none consumes them."""
    return jax.block_until_ready([_arrays(grads) for grads in problem.grads])


def copies(problem: Problem) -> list[jax.Array]:
    """Parameters of one contender alone, who donates them."""
    return _arrays(problem.params)


def optax_step(tx: optax.GradientTransformation) -> Step:
    """As everybody writes it."""

    def step(held: Any, grads: Any) -> Any:
        params, state = held
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def of_transformation(
    tx: optax.GradientTransformation, problem: Problem, grads: Grads
) -> JittedUpdate:
    """A step of any transformation that keeps no average."""
    params = copies(problem)
    return JittedUpdate((params, tx.init(params)), optax_step(tx), grads)


def ours(c: Configuration) -> optax.GradientTransformationExtraArgs:
    """This library's factory, for that configuration."""
    return rmsprop(**c.arguments)


def our_update(
    c: Configuration,
    problem: Problem,
    grads: Grads,
    make: Callable[[Configuration], optax.GradientTransformation] = ours,
) -> JittedUpdate:
    """This library's step."""
    tx, params = make(c), copies(problem)

    def values(held: Any) -> list[jax.Array]:
        return held[0] + (finalize(*held) if c.ema is not None else [])

    held = params, tx.init(params)
    return JittedUpdate(held, optax_step(tx), grads, values)


def _arrays(arrays: list[np.ndarray]) -> list[jax.Array]:
    # Copied: what is donated must not be NumPy's memory.
    return [jnp.array(array, copy=True) for array in arrays]
