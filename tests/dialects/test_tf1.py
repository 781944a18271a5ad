"""The numbers that TensorFlow publishes in its own `rmsprop_test.py`, dense cases."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects

VARIABLES = {"var0": [1.0, 2.0], "var1": [3.0, 4.0]}
# learning_rate, decay, momentum, epsilon, centered
CASES = [
    (0.5, 0.9, 0.0, 1e-3, True),
    (0.5, 0.9, 0.0, 1e-3, False),
    (0.1, 0.9, 0.0, 1e-3, True),
    (0.5, 0.95, 0.0, 1e-3, False),
    (0.5, 0.95, 0.0, 1e-5, True),
    (0.5, 0.95, 0.9, 1e-5, True),
]


def _run(grads: Any, steps: int, dtype: Any, **arguments: Any) -> Any:
    tx = dialects.tf1(**arguments)
    params = {n: jnp.asarray(v, dtype) for n, v in VARIABLES.items()}
    grads = {n: jnp.asarray(g, dtype) for n, g in grads.items()}
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float16", 2e-3)])
@pytest.mark.parametrize("case", CASES)
def test_dense(case: Any, dtype: str, rtol: float) -> None:
    rate, decay, momentum, epsilon, centered = case
    grads = {"var0": [0.1, 0.2], "var1": [0.01, 0.2]}
    params, _ = _run(
        grads,
        4,
        dtype,
        learning_rate=rate,
        decay=decay,
        momentum=momentum,
        epsilon=epsilon,
        centered=centered,
    )
    for name, start in VARIABLES.items():
        p, g = np.array(start), np.array(grads[name])
        rms, mg, mom = np.ones(2), np.zeros(2), np.zeros(2)
        for _ in range(4):
            rms = decay * rms + (1 - decay) * g * g
            mg = decay * mg + (1 - decay) * g if centered else mg
            mom = momentum * mom + rate * g / np.sqrt(rms + epsilon - mg * mg)
            p = p - mom
        np.testing.assert_allclose(np.float64(params[name]), p, rtol=rtol)


def test_without_momentum() -> None:
    grads = {"var0": [0.1, 0.1], "var1": [0.01, 0.01]}
    params, state = _run(
        grads, 2, "float32", learning_rate=2.0, decay=0.9, momentum=0.0, epsilon=1.0
    )
    nu = optax.tree.get(state, "nu")
    np.testing.assert_allclose(nu["var0"], 0.901 * 0.9 + 0.001, rtol=1e-6)
    np.testing.assert_allclose(nu["var1"], 0.90001 * 0.9 + 1e-5, rtol=1e-6)
    moved = 0.2 / math.sqrt(0.901 + 1) + 0.2 / math.sqrt(0.901 * 0.9 + 0.001 + 1)
    np.testing.assert_allclose(params["var0"], [1 - moved, 2 - moved], rtol=1e-6)


def test_with_momentum() -> None:
    grads = {"var0": [0.1, 0.1], "var1": [0.01, 0.01]}
    params, state = _run(
        grads, 2, "float32", learning_rate=2.0, decay=0.9, momentum=0.5, epsilon=1e-5
    )
    first = 0.2 / math.sqrt(0.901 + 1e-5)
    second = 0.5 * first + 0.2 / math.sqrt(0.901 * 0.9 + 0.001 + 1e-5)
    trace = optax.tree.get(state, "trace")
    np.testing.assert_allclose(trace["var0"], -second, rtol=1e-6)
    moved = first + second
    np.testing.assert_allclose(params["var0"], [1 - moved, 2 - moved], rtol=1e-6)
