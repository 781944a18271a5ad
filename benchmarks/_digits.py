"""A training run on scikit-learn's handwritten digits, which are installed with it."""

import functools
import importlib
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

HELD_OUT, BATCH = 360, 64
WIDTHS = (64, 256, 128, 10)


class Images(NamedTuple):
    """Images of 64 values in [0, 1], and the digits that they show."""

    images: jax.Array
    labels: jax.Array


@functools.cache
def load() -> tuple[Images, Images]:
    """The training set and the held-out set."""
    found: Any = importlib.import_module("sklearn.datasets").load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images, labels = (found.data[order] / 16).astype(np.float32), found.target[order]
    held, seen = slice(0, HELD_OUT), slice(HELD_OUT, None)
    train, test = (
        Images(jnp.asarray(images[part]), jnp.asarray(labels[part]))
        for part in (seen, held)
    )
    return train, test


def loss_fn(params: Any, batch: Images) -> jax.Array:
    """The mean cross-entropy of a network of dense layers, in nats."""
    x = batch.images
    for at, (kernel, bias) in enumerate(params):
        x = (jax.nn.relu(x) if at else x) @ kernel + bias
    return optax.softmax_cross_entropy_with_integer_labels(x, batch.labels).mean()


def train(
    tx: optax.GradientTransformation, seed: int, steps: int, every: int
) -> list[float]:
    """The held-out loss before the first step and after every few steps."""
    seen, held_out = load()
    rng = np.random.default_rng(seed)
    params: Any = [
        (jnp.asarray(rng.normal(0, (2 / m) ** 0.5, (m, n)), jnp.float32), jnp.zeros(n))
        for m, n in itertools.pairwise(WIDTHS)
    ]
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, chosen: jax.Array) -> Any:
        batch = Images(*(x[chosen] for x in seen))
        grads = jax.grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    evaluate = jax.jit(loss_fn)
    losses = [float(evaluate(params, held_out))]
    for count in range(1, steps + 1):
        chosen = rng.integers(len(seen.labels), size=BATCH)
        params, state = step(params, state, chosen)
        if count % every == 0:
            losses.append(float(evaluate(params, held_out)))
    return losses
