"""A training run without a model: parameters, gradients, and a trajectory to compare."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

SHAPES = {"dense/bias": (5,), "dense/kernel": (4, 5), "scale": ()}
Leaves = dict[str, np.ndarray]
Peer = Callable[..., Leaves]


class Problem(NamedTuple):
    """Parameters and the gradients of each step; in a trajectory the step comes first."""

    params: Leaves
    grads: Leaves

    @property
    def steps(self) -> int:
        return len(self.grads["scale"])


def draw_problem(seed: int, dtype: Any, steps: int = 200, decades: int = 12) -> Problem:
    """Gradients whose scale differs by ``decades`` orders of magnitude over elements."""
    rng = np.random.default_rng(seed)
    params, grads = {}, {}
    for name, shape in SHAPES.items():
        scale = 10 ** rng.uniform(-decades / 2, decades / 2, size=shape)
        drawn = rng.normal(size=(steps, *shape)) * scale
        # Now and then nothing, as behind a ReLU: the moments only decay.
        drawn *= rng.uniform(size=drawn.shape) > 0.05
        grads[name] = drawn.astype(dtype)
        params[name] = np.asarray(rng.normal(size=shape) * 3, dtype)
    return Problem(params, grads)


def ours(
    make: Callable[..., optax.GradientTransformation],
    problem: Problem,
    rates: np.ndarray | None = None,
    rate_name: str = "learning_rate",
    **arguments: Any,
) -> Leaves:
    """Our trajectory, jitted; ``rates`` as a schedule."""
    with jax.enable_x64(problem.params["scale"].dtype == np.float64):
        if rates is not None:
            table = jnp.asarray(rates)
            arguments[rate_name] = lambda count: table[count]
        tx = make(**arguments)

        def step(carry: Any, gradient: Any) -> Any:
            params, state = carry
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        @jax.jit
        def run(params: Any, grads: Any) -> Any:
            return jax.lax.scan(step, (params, tx.init(params)), grads)[1]

        made = run(*jax.tree.map(jnp.asarray, tuple(problem)))
        return {name: np.asarray(leaf) for name, leaf in made.items()}


def differences(mine: Leaves, theirs: Leaves) -> np.ndarray:
    """After each step, the largest difference relative to what the parameter reached.

    Relative to the largest magnitude of each parameter in the run, because one that
    happens to cross zero has no relative error to speak of.
    """
    worst = []
    for name in SHAPES:
        assert mine[name].dtype == theirs[name].dtype
        assert mine[name].shape == theirs[name].shape
        reach = np.abs(theirs[name]).max(axis=0)
        off = np.abs(mine[name] - theirs[name]) / reach
        worst.append(off.reshape(len(off), -1).max(axis=1))
    return np.max(worst, axis=0)
