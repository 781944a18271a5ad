"""An image classifier on scikit-learn's handwritten digits, which ship with it."""

import importlib
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

HELD_OUT = 360
BATCH = 64


class Images(NamedTuple):
    """Images of 8 x 8 numbers in [0, 1], with a channel axis, and what they show."""

    images: jax.Array
    labels: jax.Array


def load() -> tuple[Images, Images]:
    """Those to learn from, and those held out."""
    load_digits = importlib.import_module("sklearn.datasets").load_digits

    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = (found.images[order, None] / 16).astype(np.float32)
    both = Images(jnp.asarray(images), jnp.asarray(found.target[order]))
    return (
        Images(*(x[HELD_OUT:] for x in both)),
        Images(*(x[:HELD_OUT] for x in both)),
    )


class Classifier(eqx.Module):
    """Two convolutions and two dense layers; 167 thousand parameters."""

    layers: list[Any]

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 32, 3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(32, 64, 3, stride=2, padding=1, key=keys[1]),
            eqx.nn.Linear(1024, 128, key=keys[2]),
            eqx.nn.Linear(128, 10, key=keys[3]),
        ]

    def __call__(self, image: jax.Array) -> jax.Array:
        """The logits of one image."""
        first, second, dense, readout = self.layers
        x = jax.nn.relu(second(jax.nn.relu(first(image))))
        return readout(jax.nn.relu(dense(x.ravel())))


def loss_fn(network: Classifier, batch: Images) -> jax.Array:
    """The mean cross-entropy, in nats."""
    logits = jax.vmap(network)(batch.images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()


class Run:
    """One training run, as far as it has come."""

    def __init__(self, tx: optax.GradientTransformation, seed: int) -> None:
        self._seen, self._held_out = load()
        self._key = jax.random.key(seed)
        network = Classifier(jax.random.fold_in(self._key, 0))
        params, self._static = eqx.partition(network, eqx.is_inexact_array)
        self._state = (params, tx.init(params), jnp.zeros([], jnp.int32))
        self._advance = jax.jit(lambda state: self._step(tx, state), donate_argnums=0)
        self._evaluate = jax.jit(self._loss)

    def step(self) -> None:
        """A step on a batch that the seed and the step decide."""
        self._state = self._advance(self._state)

    def held_out_loss(self) -> float:
        """The loss on images that it never sees."""
        return float(self._evaluate(self._state[0], self._held_out))

    def _loss(self, params: Any, batch: Images) -> jax.Array:
        return loss_fn(eqx.combine(params, self._static), batch)

    def _step(self, tx: optax.GradientTransformation, state: Any) -> Any:
        params, opt_state, count = state
        key = jax.random.fold_in(jax.random.fold_in(self._key, 1), count)
        chosen = jax.random.randint(key, (BATCH,), 0, len(self._seen.labels))
        batch = Images(*(x[chosen] for x in self._seen))
        grads = jax.grad(self._loss)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, count + 1
