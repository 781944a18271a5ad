"""Keras 3 on TensorFlow: its step as a graph, and compiled by XLA."""

from typing import Any

from benchmarks._problem import Configuration, Problem
from benchmarks.peers import _keras
from benchmarks.peers._graphs import GraphUpdate, constants
from benchmarks.peers.jitted import ours

our_transformation = ours
MOST_LEAVES = 200  # its graphs of a thousand leaves take minutes to make


def variants(c: Configuration, problem: Problem) -> dict[str, GraphUpdate]:
    """`apply` in a `tf.function`, without and with ``jit_compile``."""
    if len(problem.params) > MOST_LEAVES:
        return {}
    grads = constants(problem)
    return {
        "Keras, TF graph": _update(c, problem, grads, jit_compile=False),
        "Keras, TF XLA": _update(c, problem, grads, jit_compile=True),
    }


def _update(
    c: Configuration, problem: Problem, grads: Any, jit_compile: bool
) -> GraphUpdate:
    import keras

    variables = [keras.Variable(p) for p in problem.params]
    optimizer = _keras.optimizer(c, variables)

    def step(grads: list[Any]) -> None:
        optimizer.apply(grads, variables)

    return GraphUpdate(variables, step, grads, _keras.averages(optimizer), jit_compile)
