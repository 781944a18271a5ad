"""`optax.rmsprop`, and the rest as a user of Optax writes it."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import optax

from benchmarks import _limit, _problem
from benchmarks._problem import LEARNING_RATE, Configuration, Problem
from benchmarks._timing import Contender
from benchmarks.peers.jitted import jitted, ours

NAME, PARTS = "optax.rmsprop", "Optax's parts"


def contenders(c: Configuration, problem: Problem) -> list[Contender]:
    """Ours and Optax's."""
    return [ours(c, problem), peer(c, problem)]


def peer(c: Configuration, problem: Problem) -> Contender:
    """Optax's, with an average that starts as the first new weights, as Keras's does."""
    tx, params = make(c), problem.device_params()
    state = tx.init(params)
    if not c.extras:
        return jitted(NAME, (params, state), partial(_limit.step, tx), problem)

    def step(held: Any, grads: Any) -> Any:
        params, state, average, count = held
        params, state = _limit.step(tx, (params, state), grads)
        share = jnp.where(count == 0, 1.0, 1.0 - _problem.EMA)
        average = optax.incremental_update(params, average, share)
        return params, state, average, count + 1

    held = (params, state, problem.device_params(), jnp.zeros([], jnp.int32))
    return jitted(PARTS, held, step, problem, lambda held: held[0] + held[2])


def make(c: Configuration) -> optax.GradientTransformation:
    """All but the average of the weights, which is no transformation in Optax."""
    tx = optax.rmsprop(
        LEARNING_RATE,
        decay=_problem.DECAY,
        eps=_problem.EPSILON,
        centered=c.centered,
        momentum=c.momentum or None,
    )
    if not c.extras:
        return tx
    decay = optax.add_decayed_weights(-LEARNING_RATE * _problem.WEIGHT_DECAY)
    return optax.chain(optax.clip_by_global_norm(_problem.CLIP), tx, decay)
