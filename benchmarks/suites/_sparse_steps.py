"""The steps that are measured: training by rows, training densely, the update alone."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax import rmsprop, sparse

WIDTH = 64
IDS = 4096
OUTPUTS = 16
LEARNING_RATE, DECAY, EPSILON = 1e-3, 0.9, 1e-7

State = tuple[Any, Any]
Step = Callable[..., tuple[State, Any]]

OURS = rmsprop(LEARNING_RATE, rho=DECAY, epsilon=EPSILON)
OPTAX = optax.rmsprop(LEARNING_RATE, decay=DECAY, eps=EPSILON)


class Method(NamedTuple):
    """A way to train.

    Attributes:
      start: The parameters and the optimizer's state, for a table of so many rows.
      step: Those after a batch, and the value of the loss.
    """

    start: Callable[[int], State]
    step: Step


def table(height: int) -> jax.Array:
    """A table whose rows differ; random numbers would take longer than the benchmark."""
    rows = jnp.sin(jnp.arange(height, dtype=jnp.float32) + 1)
    return 0.1 * rows[:, None] * jnp.cos(jnp.arange(WIDTH, dtype=jnp.float32))


def _by_rows(state: State, ids: jax.Array) -> tuple[State, Any]:
    """A whole step of training with the gradient of the table by rows."""

    def loss(params: Any, ids: jax.Array) -> jax.Array:
        return _loss(params, sparse.lookup(params["table"], ids))

    grad_fn = sparse.value_and_grad(loss, lambda params, ids: {"table": ids})
    value, grads = grad_fn(state[0], ids)
    return _apply(OURS, state, grads), value


def _densely(state: State, ids: jax.Array) -> tuple[State, Any]:
    """The same with a gradient as large as the table, and Optax's own RMSprop."""

    def loss(params: Any) -> jax.Array:
        return _loss(params, params["table"][ids])

    value, grads = jax.value_and_grad(loss)(state[0])
    return _apply(OPTAX, state, grads), value


def _update_alone(state: State, ids: jax.Array, values: jax.Array) -> tuple[State, Any]:
    """From ids as they come, some twice, and their gradients, to the new table."""
    grads = sparse.RowSlices(ids, values, state[0].shape)
    return _apply(OURS, state, grads), None


def _network(tx: optax.GradientTransformation, height: int) -> State:
    """A table and a small dense layer."""
    kernel = jnp.sin(jnp.arange(WIDTH * OUTPUTS, dtype=jnp.float32))
    params = {"table": table(height), "kernel": kernel.reshape(WIDTH, OUTPUTS)}
    return params, tx.init(params)


def _lone_table(tx: optax.GradientTransformation, height: int) -> State:
    params = table(height)
    return params, tx.init(params)


BY_ROWS = Method(partial(_network, OURS), _by_rows)
DENSELY = Method(partial(_network, OPTAX), _densely)
UPDATE_ALONE = Method(partial(_lone_table, OURS), _update_alone)


class Training:
    """A state and the compiled step that moves it on, in the memory where it is."""

    def __init__(self, method: Method, height: int) -> None:
        self.state = jax.jit(method.start, static_argnums=0)(height)
        self._step = jax.jit(method.step, donate_argnums=0)

    def __call__(self, batch: tuple[jax.Array, ...]) -> None:
        """One step, to its end."""
        made = self._step(self.state, *batch)
        self.state, _ = jax.block_until_ready(made)


def to_device(*arrays: np.ndarray) -> tuple[jax.Array, ...]:
    """A batch where JAX wants it."""
    return jax.block_until_ready(tuple(jnp.asarray(array) for array in arrays))


def _loss(params: Any, rows: jax.Array) -> jax.Array:
    # Summed over ids: gradients large enough that epsilon does not decide the update.
    return jnp.sum(jnp.mean(jnp.tanh(rows @ params["kernel"]) ** 2, axis=-1))


def _apply(tx: optax.GradientTransformation, state: State, grads: Any) -> State:
    params, opt_state = state
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state
