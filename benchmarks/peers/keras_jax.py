"""Keras 3 on JAX, its stateless step compiled and its state donated."""

from typing import Any

import jax

from benchmarks._problem import Configuration, Problem
from benchmarks.peers import _keras
from benchmarks.peers.jitted import JittedUpdate, ours, to_device

our_transformation = ours


def variants(c: Configuration, problem: Problem) -> dict[str, JittedUpdate]:
    """`stateless_apply` under `jax.jit`."""
    import keras

    variables = [keras.Variable(p) for p in problem.params]
    optimizer = _keras.optimizer(c, variables)
    places = {v.path: i for i, v in enumerate(optimizer.variables)}
    averages = [places[v.path] for v in _keras.averages(optimizer)]

    def step(held: Any, grads: Any) -> Any:
        params, state = held
        return optimizer.stateless_apply(state, grads, params)

    def values(held: Any) -> list[jax.Array]:
        params, state = held
        return [*params, *(state[i] for i in averages)]

    # Copied: Keras's own variables must outlive the donation.
    held = jax.tree.map(
        lambda v: v.value.copy(),
        (variables, list(optimizer.variables)),
        is_leaf=lambda v: isinstance(v, keras.Variable),
    )
    return {"Keras, JAX": JittedUpdate(held, step, to_device(problem), values)}
