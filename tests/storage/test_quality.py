"""Training with low-precision state reaches the held-out loss of float32: digits."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro

pytestmark = pytest.mark.slow

STEPS, BATCH, HELD_OUT, SEEDS = 400, 64, 400, 5

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "optax.adam": lambda: optax.adam(1e-3),
    "optax.adamw": lambda: optax.adamw(1e-3, weight_decay=1e-2),
    "optax.lion": lambda: optax.lion(5e-4),
    "optax.sgd": lambda: optax.sgd(0.03, momentum=0.9),
    "optax.rmsprop": lambda: optax.rmsprop(3e-4, momentum=0.9),
    "rmsprop": lambda: ro.rmsprop(1e-3),
    "momentum": lambda: ro.rmsprop(2e-4, momentum=0.9, bias_correction=True),
    "centered": lambda: ro.rmsprop(1e-4, momentum=0.9, centered=True, epsilon=1e-5),
    "torch": lambda: ro.dialects.torch(3e-4, momentum=0.9),
}


@cache
def _digits() -> tuple[Any, Any]:
    datasets = pytest.importorskip("sklearn.datasets", reason="pip install scikit-learn")
    digits = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = digits.data[order] / 16, digits.target[order]
    return jnp.asarray(images, jnp.float32), jnp.asarray(labels)


def _losses(tx: optax.GradientTransformation) -> np.ndarray:
    """The held-out loss of each seed at the end."""
    images, labels = _digits()

    def loss_fn(params: Any, rows: Any) -> Any:
        hidden = jax.nn.relu(images[rows] @ params["in"] + params["bias"])
        logits = hidden @ params["out"]
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, labels[rows]
        ).mean()

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        rows = jax.random.randint(key, (BATCH,), HELD_OUT, len(labels))
        updates, state = tx.update(jax.grad(loss_fn)(params, rows), state, params)
        return (optax.apply_updates(params, updates), state), None

    def train(seed: jax.Array) -> jax.Array:
        first, second, batches = jax.random.split(jax.random.key(seed), 3)
        params = {
            "in": jax.random.normal(first, (64, 256)) * np.sqrt(2 / 64),
            "bias": jnp.zeros(256),
            "out": jax.random.normal(second, (256, 10)) * np.sqrt(2 / 256),
        }
        keys = jax.random.split(batches, STEPS)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
        return loss_fn(params, jnp.arange(HELD_OUT))

    return np.asarray(jax.jit(lambda: jax.lax.map(train, jnp.arange(SEEDS)))())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_held_out_loss_is_that_of_float32(name: str) -> None:
    tx = OPTIMIZERS[name]()
    float32 = _losses(tx)
    standard_error = float32.std(ddof=1) / np.sqrt(SEEDS)
    assert float32.mean() < 0.5  # it has learned: ln 10 = 2.3 is chance
    for kind in ("int8", "bfloat16"):
        storage = ro.MomentStorage(kind, min_size=0)
        stored = _losses(ro.low_precision(tx, storage))
        assert abs(stored.mean() - float32.mean()) < standard_error, kind
