"""TensorFlow's own kernels: a whole RMSprop in one operation a leaf."""

from typing import Any

from benchmarks._problem import DECAY, EPSILON, LEARNING_RATE, Configuration, Problem
from benchmarks.peers._graphs import GraphUpdate, constants, tensorflow
from benchmarks.peers.jitted import ours

our_transformation = ours


def variants(c: Configuration, problem: Problem) -> dict[str, GraphUpdate]:
    """`ResourceApplyRMSProp`, or its centered form; they know nothing of the rest."""
    if c.has_extras:
        return {}
    tf = tensorflow()
    variables = [tf.Variable(p) for p in problem.params]
    slots = [[tf.Variable(tf.zeros_like(v)) for v in variables] for _ in range(3)]
    numbers = {
        "lr": LEARNING_RATE,
        "rho": DECAY,
        "momentum": c.momentum,
        "epsilon": EPSILON,
    }

    def step(grads: list[Any]) -> None:
        for grad, var, ms, mom, mg in zip(grads, variables, *slots, strict=True):
            given = {"var": var.handle, "ms": ms.handle, "mom": mom.handle, "grad": grad}
            if c.centered:
                given["mg"] = mg.handle
                tf.raw_ops.ResourceApplyCenteredRMSProp(**given, **numbers)
            else:
                tf.raw_ops.ResourceApplyRMSProp(**given, **numbers)

    return {"TF's kernel": GraphUpdate(variables, step, constants(problem), [])}
