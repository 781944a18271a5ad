"""A run that is interrupted in the middle, and goes on on the other side."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.parity._problem import Leaves, Problem, draw_problem

HALF, WHOLE = 30, 60


class Run(NamedTuple):
    """Our side: parameters and state after some steps."""

    params: Any
    state: Any


def problem(seed: int = 0) -> Problem:
    return draw_problem(seed, np.float32, WHOLE)


def start(tx: Any, params: Leaves) -> Run:
    placed = {n: jnp.asarray(p) for n, p in params.items()}
    return Run(placed, tx.init(placed))


def train(tx: Any, run: Run, given: Problem, first: int, last: int) -> Run:
    @jax.jit
    def step(run: Run, gradient: Any) -> Run:
        updates, state = tx.update(gradient, run.state, run.params)
        return Run(optax.apply_updates(run.params, updates), state)

    for t in range(first, last):
        run = step(run, {n: g[t] for n, g in given.grads.items()})
    return run


def assert_close(mine: Leaves, theirs: Leaves, given: Problem) -> None:
    """Relative to the parameter as it started, or as it is."""
    for name, theirs_now in theirs.items():
        reach = np.maximum(np.abs(theirs_now), np.abs(given.params[name]))
        off = np.abs(np.asarray(mine[name]) - theirs_now) / reach
        assert off.max() < 2e-5, (name, off.max())


def assert_same_bits(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]
