"""A training run on scikit-learn's handwritten digits, which are installed with it."""

import functools
import importlib
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

HELD_OUT, BATCH = 360, 64
WIDTHS = (64, 256, 128, 10)


@functools.cache
def load() -> tuple[np.ndarray, np.ndarray]:
    """Images of 64 values in [0, 1], and the digits that they show; shuffled."""
    found: Any = importlib.import_module("sklearn.datasets").load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    return (found.data[order] / 16).astype(np.float32), found.target[order]


def init(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of each layer."""
    return [
        (
            rng.normal(0, (2 / m) ** 0.5, (m, n)).astype(np.float32),
            np.zeros(n, np.float32),
        )
        for m, n in itertools.pairwise(WIDTHS)
    ]


def batch(rng: np.random.Generator) -> np.ndarray:
    """Which images are trained with; the first ones are held out."""
    return rng.integers(HELD_OUT, len(load()[1]), size=BATCH)


def loss_fn(params: Any, images: Any, labels: Any) -> jax.Array:
    """The mean cross-entropy of a network of dense layers, in nats."""
    x = images
    for at, (kernel, bias) in enumerate(params):
        x = (jax.nn.relu(x) if at else x) @ kernel + bias
    return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()


def train(
    tx: optax.GradientTransformation, seed: int, steps: int, every: int
) -> list[float]:
    """The held-out loss before the first step and after every few steps."""
    images, labels = load()
    rng = np.random.default_rng(seed)
    params: Any = [tuple(map(jnp.asarray, layer)) for layer in init(rng)]
    state, step, evaluate = tx.init(params), _step(tx), _evaluate()
    losses = [float(evaluate(params, images[:HELD_OUT], labels[:HELD_OUT]))]
    for count in range(1, steps + 1):
        chosen = batch(rng)
        params, state = step(params, state, images[chosen], labels[chosen])
        if count % every == 0:
            losses.append(float(evaluate(params, images[:HELD_OUT], labels[:HELD_OUT])))
    return losses


@functools.cache
def _step(tx: optax.GradientTransformation) -> Any:
    """The compiled step, which all seeds share."""

    @jax.jit
    def step(params: Any, state: Any, images: Any, labels: Any) -> Any:
        grads = jax.grad(loss_fn)(params, images, labels)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


@functools.cache
def _evaluate() -> Any:
    return jax.jit(loss_fn)
