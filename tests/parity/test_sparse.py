"""Rows beside TensorFlow's own sparse kernels, step by step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import dialects, sparse
from rmsprop_optax.sparse import RowSlices
from tests.parity._installed import peer

HEIGHT, WIDTH, STEPS = 30, 4, 40
NUMBERS = {"lr": 0.05, "rho": 0.9, "momentum": 0.9, "epsilon": 1e-3}


def _draw(dtype: Any) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(HEIGHT, WIDTH)).astype(dtype)
    return table, [
        (rng.integers(0, HEIGHT, 12), rng.normal(size=(12, WIDTH)).astype(dtype))
        for _ in range(STEPS)
    ]


def _tensorflow(table: np.ndarray, steps: list[Any], centered: bool) -> list[np.ndarray]:
    tf = peer("tensorflow", "tensorflow")
    var, ms = tf.Variable(table), tf.Variable(np.ones_like(table))
    mom, mg = tf.Variable(np.zeros_like(table)), tf.Variable(np.zeros_like(table))
    numbers = {n: tf.constant(x, var.dtype) for n, x in NUMBERS.items()}
    made = []
    for ids, values in steps:
        unique, slot = np.unique(ids, return_inverse=True)
        summed = np.zeros((len(unique), WIDTH), table.dtype)
        np.add.at(summed, slot, values)
        given = {"var": var.handle, "ms": ms.handle, "mom": mom.handle, **numbers}
        given |= {"grad": tf.constant(summed), "indices": tf.constant(unique)}
        if centered:
            tf.raw_ops.ResourceSparseApplyCenteredRMSProp(mg=mg.handle, **given)
        else:
            tf.raw_ops.ResourceSparseApplyRMSProp(**given)
        made.append(var.numpy())
    return made


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 5e-6), ("float64", 1e-12)])
def test_every_step_is_tensorflows(centered: bool, dtype: str, rtol: float) -> None:
    table, steps = _draw(dtype)
    theirs = _tensorflow(table, steps, centered)
    with jax.enable_x64(dtype == "float64"):
        tx = dialects.tf1(0.05, 0.9, 0.9, 1e-3, centered=centered)
        params = jnp.asarray(table)
        state = tx.init(params)

        @jax.jit
        def step(params: Any, state: Any, ids: Any, values: Any) -> Any:
            rows = RowSlices(ids, values, (HEIGHT, WIDTH))
            updates, state = tx.update(rows, state, params)
            return optax.apply_updates(params, updates), state

        for (ids, values), expected in zip(steps, theirs, strict=True):
            params, state = step(params, state, jnp.asarray(ids), jnp.asarray(values))
            np.testing.assert_allclose(params, expected, rtol=rtol, atol=rtol)


CASES = [
    (0.5, 0.9, 0.0, 1e-3, True),
    (0.5, 0.9, 0.0, 1e-3, False),
    (0.1, 0.9, 0.0, 1e-3, True),
    (0.5, 0.95, 0.0, 1e-3, False),
    (0.5, 0.95, 0.0, 1e-5, True),
    (0.5, 0.95, 0.9, 1e-5, True),
]


@pytest.mark.parametrize("case", CASES)
def test_the_published_sparse_cases(case: Any) -> None:
    """`testSparse` of TensorFlow's `rmsprop_test.py`: one row of two, four steps."""
    rate, decay, momentum, epsilon, centered = case
    tx = dialects.tf1(rate, decay, momentum, epsilon, centered=centered)
    for start, row, g in (([1.0, 2.0], 0, 0.1), ([3.0, 4.0], 1, 0.01)):
        params = jnp.array(start)
        state = tx.init(params)
        var, rms, mg, mom = start[row], 1.0, 0.0, 0.0
        for _ in range(4):
            rows = RowSlices(jnp.array([row]), jnp.array([g]), (2,))
            updates, state = tx.update(rows, state, params)
            params = optax.apply_updates(params, updates)
            rms = rms * decay + (1 - decay) * g * g
            mg = mg * decay + (1 - decay) * g if centered else 0.0
            mom = momentum * mom + rate * g / np.sqrt(rms + epsilon - mg * mg)
            var = var - mom
        np.testing.assert_allclose(params[row], var, rtol=1e-6)
        assert params[1 - row] == start[1 - row]


def test_the_padding_row_of_torch() -> None:
    """Its value is read; it gets no gradient."""
    torch = peer("torch", "torch")
    table, ids = _draw("float32")[0], np.array([[3, 0, 3], [7, 0, 1]])
    embedding = torch.nn.Embedding.from_pretrained(
        torch.from_numpy(table.copy()), freeze=False, padding_idx=0
    )
    loss = torch.tanh(embedding(torch.from_numpy(ids))).sum()
    loss.backward()

    def loss_fn(table: Any, ids: Any) -> Any:
        return jnp.sum(jnp.tanh(sparse.lookup(table, ids)))

    root = "<the root>"
    grad_fn = sparse.value_and_grad(
        loss_fn, lambda table, ids: {root: ids}, padding_idx={root: 0}
    )
    value, grads = jax.jit(grad_fn)(table, ids)
    np.testing.assert_allclose(value, loss.detach(), rtol=1e-5)
    assert not grads.to_dense()[0].any()
    np.testing.assert_allclose(grads.to_dense(), embedding.weight.grad, rtol=1e-5)
