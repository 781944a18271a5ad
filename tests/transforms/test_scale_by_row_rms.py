"""One number a row: beside NumPy in float64, by rows, and in low precision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmsprop_optax as ro
from rmsprop_optax import parallel, sparse

DECAY, EPS, RATE, MOMENTUM = 0.8, 1e-3, 0.1, 0.9
HEIGHT = 6


def _row_wise(momentum: bool = False, eps_in_sqrt: bool = True) -> Any:
    step = optax.chain(
        ro.scale_by_row_rms(DECAY, EPS, eps_in_sqrt=eps_in_sqrt),
        optax.scale_by_learning_rate(RATE),
    )
    return optax.chain(step, optax.trace(MOMENTUM)) if momentum else step


def _expected(
    table: Any, steps: Any, momentum: bool = False, eps_in_sqrt: bool = True
) -> np.ndarray:
    """The same in NumPy: each step has rows, and their gradients."""
    table = np.asarray(table, np.float64)
    nu, trace = np.zeros(len(table)), np.zeros(table.shape)
    one = (slice(None), *[None] * (table.ndim - 1))
    for rows, g in steps:
        g = np.asarray(g, np.float64)
        square = np.mean(g.reshape(len(g), -1) ** 2, axis=1)
        nu[rows] = DECAY * nu[rows] + (1 - DECAY) * square
        root = np.sqrt(nu[rows] + EPS) if eps_in_sqrt else np.sqrt(nu[rows]) + EPS
        trace[rows] = (MOMENTUM * trace[rows] if momentum else 0) + RATE * g / root[one]
        table[rows] -= trace[rows]
    return table


def _draw(shape: tuple[int, ...], rows: Any = slice(None)) -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(0)
    table = rng.normal(size=shape).astype(np.float32)
    count = len(table[rows])
    gradient = lambda: rng.normal(size=(count, *shape[1:])).astype(np.float32)  # noqa: E731
    return table, [(rows, gradient()) for _ in range(4)]


def _run(tx: Any, table: Any, gradients: list[Any]) -> tuple[Any, Any]:
    params = jnp.asarray(table)
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    for g in gradients:
        params, state = step(params, state, g)
    return params, state


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
@pytest.mark.parametrize("shape", [(HEIGHT, 4), (HEIGHT, 2, 3), (HEIGHT,)])
def test_dense(shape: tuple[int, ...], eps_in_sqrt: bool) -> None:
    table, steps = _draw(shape)
    tx = _row_wise(eps_in_sqrt=eps_in_sqrt)
    found, state = _run(tx, table, [jnp.asarray(g) for _, g in steps])
    wanted = _expected(table, steps, eps_in_sqrt=eps_in_sqrt)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    nu = optax.tree.get(state, "nu")
    assert (nu.shape, nu.dtype) == ((HEIGHT, *[1] * (len(shape) - 1)), jnp.float32)


@pytest.mark.parametrize("storage", [None, "bfloat16"])
def test_by_rows(storage: str | None) -> None:
    rows = np.array([1, 4])
    table, steps = _draw((HEIGHT, 4), rows)
    tx = _row_wise(momentum=True)
    if storage is not None:
        tx = ro.low_precision(tx, storage)
    by_rows = [sparse.RowSlices(rows, g, table.shape) for _, g in steps]
    found, state = _run(sparse.lazy(tx), table, by_rows)
    wanted = _expected(table, steps, momentum=True)
    bound = 1e-5 if storage is None else 1e-2
    np.testing.assert_allclose(found, wanted, rtol=bound, atol=bound)
    others = [0, 2, 3, 5]
    np.testing.assert_array_equal(found[np.array(others)], table[others])
    nu = optax.tree.get(state, "nu")
    assert (nu.shape, nu.dtype) == ((HEIGHT, 1), jnp.float32)
    assert np.flatnonzero(nu).tolist() == rows.tolist()
    assert optax.tree.get(state, "trace").dtype == (storage or "float32")


def test_momentum_in_8_bits() -> None:
    table, steps = _draw((HEIGHT, 8))
    storage = ro.MomentStorage("int8", min_size=0)
    tx = ro.low_precision(_row_wise(momentum=True), storage)
    found, state = _run(tx, table, [jnp.asarray(g) for _, g in steps])
    wanted = _expected(table, steps, momentum=True)
    np.testing.assert_allclose(found, wanted, atol=2e-2)
    assert optax.tree.get(state, "trace").dtype == jnp.int8
    assert optax.tree.get(state, "nu").shape == (HEIGHT, 1)


def test_four_bytes_a_row() -> None:
    params = jax.ShapeDtypeStruct((10_000_000, 64), jnp.float32)
    assert ro.state_bytes(sparse.lazy(_row_wise()), params).total == 4 * 10_000_000


@pytest.mark.parametrize("axes", ["Explicit", "Auto"])
def test_sharded_as_the_rows_of_its_parameter(axes: str) -> None:
    kind = getattr(jax.sharding.AxisType, axes)
    whole = jax.make_mesh((4,), ("data",), (kind,), devices=jax.devices()[:4])
    rows = jax.NamedSharding(whole, jax.P("data"))
    table, steps = _draw((8, 4))
    params = jax.device_put(jnp.asarray(table), rows)
    tx = _row_wise()
    shardings = parallel.state_sharding(tx, params, whole)
    assert jax.tree.leaves(shardings)[0].spec == jax.P("data")
    state = tx.init(params)
    found, new = _run(tx, params, [jax.device_put(g, rows) for _, g in steps])
    np.testing.assert_allclose(found, _expected(table, steps), rtol=1e-5, atol=1e-6)
    for x, y in zip(*map(jax.tree.leaves, (state, new)), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, 2)


def test_what_does_not_fit_is_named() -> None:
    tx = ro.scale_by_row_rms()
    state = tx.init({"table": jnp.ones((3, 2))})
    with pytest.raises(ValueError, match="'table' has shape"):
        tx.update({"table": jnp.ones((4, 2))}, state)
    with pytest.raises(ValueError, match="made by another transformation"):
        tx.update({"other": jnp.ones((3, 2))}, state)
    rows = sparse.RowSlices(jnp.array([1]), jnp.ones((1, 2)), (3, 2))
    with pytest.raises(TypeError, match=r"`sparse\.lazy`"):
        tx.update({"table": rows}, state)
    update, after = tx.update({"table": None}, state)
    assert update == {"table": None}
    np.testing.assert_array_equal(after.nu["table"], np.zeros((3, 1)))
