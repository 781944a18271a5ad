"""How many parameters centered RMSprop turns into NaN: here, and in a live library."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers import OURSELVES
from rmsprop_optax import rmsprop

ARGUMENTS = (1e-3, 0.9)  # learning rate and decay; PyTorch's own default is 0.99
PARAMETERS = 10_000

Share = Callable[[float, int], float]


def share_of(peer: str) -> tuple[str, Share]:
    """Its name for people; the share of NaN, from the spread and the number of steps."""
    return {
        OURSELVES: (OURSELVES, lambda *run: _optax(rmsprop, *run)),
        "optax": ("Optax", lambda *run: _optax(optax.rmsprop, *run)),
        "keras-jax": ("Keras", _keras),
        "torch": ("PyTorch", _torch),
    }[peer]


def _gradients(spread: float, steps: int) -> Iterator[np.ndarray]:
    """A mean of 1, and a spread that is as much smaller as is said; float32."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        yield (1 + spread * rng.standard_normal(PARAMETERS)).astype(np.float32)


def _share(params: Any) -> float:
    return float(np.isnan(np.asarray(params)).mean())


def _optax(make: Callable[..., Any], spread: float, steps: int) -> float:
    tx = make(*ARGUMENTS, centered=True)

    @jax.jit
    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params: Any = jnp.zeros(PARAMETERS)
    state = tx.init(params)
    for gradient in _gradients(spread, steps):
        params, state = step(params, state, gradient)
    return _share(params)


def _keras(spread: float, steps: int) -> float:
    import keras

    variable = keras.Variable(np.zeros(PARAMETERS, np.float32))
    optimizer = keras.optimizers.RMSprop(*ARGUMENTS, centered=True)
    optimizer.build([variable])
    step = jax.jit(optimizer.stateless_apply)
    values, state = [variable.value], [v.value for v in optimizer.variables]
    for gradient in _gradients(spread, steps):
        values, state = step(state, [gradient], values)
    return _share(values[0])


def _torch(spread: float, steps: int) -> float:
    import torch

    params = torch.zeros(PARAMETERS)
    optimizer = torch.optim.RMSprop([params], *ARGUMENTS, centered=True)
    for gradient in _gradients(spread, steps):
        params.grad = torch.from_numpy(gradient)
        optimizer.step()
    return _share(params)
