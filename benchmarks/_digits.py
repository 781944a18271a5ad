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
    params: Any = [
        (jnp.asarray(rng.normal(0, (2 / m) ** 0.5, (m, n)), jnp.float32), jnp.zeros(n))
        for m, n in itertools.pairwise(WIDTHS)
    ]
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, images: Any, labels: Any) -> Any:
        grads = jax.grad(loss_fn)(params, images, labels)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    evaluate = jax.jit(loss_fn)
    losses = [float(evaluate(params, images[:HELD_OUT], labels[:HELD_OUT]))]
    for count in range(1, steps + 1):
        chosen = rng.integers(HELD_OUT, len(labels), size=BATCH)
        params, state = step(params, state, images[chosen], labels[chosen])
        if count % every == 0:
            losses.append(float(evaluate(params, images[:HELD_OUT], labels[:HELD_OUT])))
    return losses
