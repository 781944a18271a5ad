"""`optax.rmsprop`, and what an Optax user writes for the rest."""

from typing import Any

import jax.numpy as jnp
import optax

from benchmarks._problem import DECAY, EPSILON, LEARNING_RATE, Configuration, Problem
from benchmarks.peers.jitted import (
    Grads,
    JittedUpdate,
    copies,
    of_transformation,
    ours,
    to_device,
)

our_transformation = ours


def variants(c: Configuration, problem: Problem) -> dict[str, JittedUpdate]:
    """All ways of doing it with Optax, by name."""
    grads, tx = to_device(problem), pieces(c)
    if c.ema is not None:
        return {"Optax's pieces": _averaging(tx, c.ema, problem, grads)}
    name = "Optax's pieces" if c.has_extras else "optax.rmsprop"
    made = {name: of_transformation(tx, problem, grads)}
    if len(problem.params) > 1 and not c.has_extras:
        made["optax.flatten"] = of_transformation(optax.flatten(tx), problem, grads)
    return made


def pieces(c: Configuration) -> optax.GradientTransformation:
    """All but the average of the weights, which is no transformation in Optax."""
    tx = optax.rmsprop(
        LEARNING_RATE,
        decay=DECAY,
        eps=EPSILON,
        centered=c.centered,
        momentum=c.momentum or None,
    )
    if c.clip is not None:
        tx = optax.chain(optax.clip_by_global_norm(c.clip), tx)
    if c.decay is not None:
        tx = optax.chain(tx, optax.add_decayed_weights(-LEARNING_RATE * c.decay))
    return tx


def _averaging(
    tx: optax.GradientTransformation, decay: float, problem: Problem, grads: Grads
) -> JittedUpdate:
    """With an average of the weights that begins as the first new ones, as Keras's."""

    def step(held: Any, grads: Any) -> Any:
        params, state, average, count = held
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        share = jnp.where(count == 0, 1.0, 1.0 - decay)
        average = optax.incremental_update(params, average, share)
        return params, state, average, count + 1

    params = copies(problem)
    state = tx.init(params)
    held = (params, state, copies(problem), jnp.zeros([], jnp.int32))
    return JittedUpdate(held, step, grads, lambda held: held[0] + held[2])
