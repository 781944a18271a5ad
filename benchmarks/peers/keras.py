"""Keras 3 on JAX: the stateless step, compiled, with its state donated."""

import importlib
from typing import Any

import jax

from benchmarks._problem import Configuration, Problem
from benchmarks._timing import Contender
from benchmarks.peers.jitted import jitted, ours


def contenders(c: Configuration, problem: Problem) -> list[Contender]:
    """Ours and Keras's."""
    keras = importlib.import_module("keras")
    variables = [keras.Variable(p) for p in problem.params]
    optimizer = keras.optimizers.RMSprop(**c.arguments)
    optimizer.build(variables)
    kept = [v.path for v in getattr(optimizer, "_model_variables_moving_average", [])]
    places = [i for i, v in enumerate(optimizer.variables) if v.path in set(kept)]

    def step(held: Any, grads: Any) -> Any:
        params, state = held
        return optimizer.stateless_apply(state, grads, params)

    def values(held: Any) -> list[jax.Array]:
        params, state = held
        return [*params, *(state[i] for i in places)]

    # Copies, because Keras's own variables must outlive the donation.
    params, state = (
        [v.value.copy() for v in x] for x in (variables, optimizer.variables)
    )
    return [ours(c, problem), jitted("Keras", (params, state), step, problem, values)]
