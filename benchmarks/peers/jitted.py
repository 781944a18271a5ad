"""Contenders that JAX compiles, with parameters and state donated to the step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from benchmarks._limit import step
from benchmarks._problem import Configuration, Problem
from benchmarks._summary import OURS
from benchmarks._timing import Contender
from rmsprop_optax import finalize, rmsprop


class Jitted:
    """What a step holds, with the parameters first, and the compiled step."""

    def __init__(self, held: Any, step: Callable[..., Any]) -> None:
        self.held, self._step = held, jax.jit(step, donate_argnums=0)

    def __call__(self, given: Any) -> None:
        """One step. When one result of a program is ready, all are."""
        self.held = self._step(self.held, given)
        jax.tree.leaves(self.held[0])[0].block_until_ready()


def jitted(
    name: str,
    held: Any,
    step: Callable[..., Any],
    problem: Problem,
    values: Callable[[Any], list[jax.Array]] = lambda held: held[0],
) -> Contender:
    """A contender, from what its step holds and ``step(held, grads)``."""
    run, grads = Jitted(held, step), problem.device_grads
    return Contender(
        name,
        run,
        lambda seed: grads[seed % len(grads)],
        lambda: [np.asarray(value) for value in values(run.held)],
    )


def transformation(
    name: str, tx: optax.GradientTransformation, problem: Problem
) -> Contender:
    """A contender of any transformation, without an average of the weights."""
    params = problem.device_params()
    return jitted(name, (params, tx.init(params)), partial(step, tx), problem)


def ours(c: Configuration, problem: Problem, name: str = OURS) -> Contender:
    """`rmsprop_optax.rmsprop`, and the average of the weights where there is one."""
    tx, params = rmsprop(**c.arguments), problem.device_params()

    def values(held: Any) -> list[jax.Array]:
        return held[0] + (finalize(*held) if c.extras else [])

    return jitted(name, (params, tx.init(params)), partial(step, tx), problem, values)
