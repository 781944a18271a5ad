"""Values and gradients are those of `jax.value_and_grad`, to the bit."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_optax import rmsprop, sparse

HEIGHT = 50


def _params() -> Any:
    rng = np.random.default_rng(0)
    return {
        "encoder": {"embedding": jnp.asarray(rng.normal(size=(HEIGHT, 4)), jnp.float32)},
        "bias": jnp.asarray(rng.normal(size=HEIGHT), jnp.float32),
        "dense": jnp.asarray(rng.normal(size=(4, 4)), jnp.float32),
    }


IDS = jnp.array([[3, 3, 49], [0, 7, 3]])


def _plain(params: Any, ids: Any) -> Any:
    rows = sparse.lookup(params["encoder"]["embedding"], ids)
    return jnp.sum(jnp.tanh(rows @ params["dense"])) + jnp.sum(
        sparse.lookup(params["bias"], ids[0]) ** 2
    )


def _vmapped(params: Any, ids: Any) -> Any:
    def one(row: Any) -> Any:
        return jnp.sum(sparse.lookup(params["encoder"]["embedding"], row) ** 3)

    biases = sparse.lookup(params["bias"], ids)
    return jnp.sum(jax.vmap(one)(ids) * jnp.max(biases, axis=1))


def _scanned(params: Any, ids: Any) -> Any:
    def step(carry: Any, row: Any) -> Any:
        rows = sparse.lookup(params["encoder"]["embedding"], row)
        carry = jnp.tanh(carry @ params["dense"] + rows.sum(0))
        return carry, sparse.lookup(params["bias"], row[0])

    carry, biases = jax.lax.scan(step, jnp.zeros(4), ids)
    return jnp.sum(carry**2) + jnp.sum(biases)


def _branched(params: Any, ids: Any) -> Any:
    table = params["encoder"]["embedding"]
    rows = jax.lax.cond(
        ids[0, 0] > 2,
        lambda: sparse.lookup(table, ids[0]),
        lambda: 2 * sparse.lookup(table, ids[1]),
    )
    return jnp.sum(rows**2) + jnp.sum(sparse.lookup(params["bias"], ids))


def _announced(params: Any, ids: Any) -> Any:
    del params
    return {"encoder/embedding": ids, "bias": [ids, {"again": ids[0]}]}


LOSSES = [_plain, _vmapped, _scanned, _branched]


@pytest.mark.parametrize(
    ("loss", "jitted"),
    [
        *((loss, True) for loss in LOSSES),
        *((loss, False) for loss in LOSSES[:2]),
        *(pytest.param(loss, False, marks=pytest.mark.slow) for loss in LOSSES[2:]),
    ],
)
def test_equal_to_the_bit(loss: Callable[..., Any], jitted: bool) -> None:
    wrap = jax.jit if jitted else lambda f: f
    value, grads = wrap(sparse.value_and_grad(loss, _announced))(_params(), IDS)
    dense_value, dense = wrap(jax.value_and_grad(loss))(_params(), IDS)
    assert value == dense_value
    for path in (("encoder", "embedding"), ("bias",)):
        mine, theirs = grads, dense
        for key in path:
            mine, theirs = mine[key], theirs[key]
        assert isinstance(mine, sparse.RowSlices)
        np.testing.assert_array_equal(mine.to_dense(), theirs)
    np.testing.assert_array_equal(grads["dense"], dense["dense"])


@pytest.mark.parametrize("free", [3, 49, 10])
def test_a_padding_row_is_read_and_never_moves(free: int) -> None:
    """Id 10 is not looked up."""
    padding = {"encoder/embedding": free, "bias": free}
    params = _params()
    grad_fn = jax.jit(sparse.value_and_grad(_plain, _announced, padding_idx=padding))
    value, grads = grad_fn(params, IDS)
    dense_value, dense = jax.value_and_grad(_plain)(params, IDS)
    np.testing.assert_allclose(value, dense_value, rtol=1e-6)
    found = grads["encoder"]["embedding"]
    expected = dense["encoder"]["embedding"].at[free].set(0.0)
    np.testing.assert_allclose(found.to_dense(), expected, rtol=1e-5)
    np.testing.assert_allclose(
        grads["bias"].to_dense(), dense["bias"].at[free].set(0.0), rtol=1e-5
    )
    assert free not in found.indices
    assert found.indices.tolist() == sorted(found.indices.tolist())
    tx = rmsprop(0.1, momentum=0.9, weight_decay=0.1, use_ema=True)
    state = tx.init(params)
    table = params["encoder"]["embedding"]
    for _ in range(2):
        updates, state = tx.update(grad_fn(params, IDS)[1], state, params)
        params = optax.apply_updates(params, updates)
    moved = np.any(np.asarray(params["encoder"]["embedding"] != table), axis=1)
    assert np.flatnonzero(moved).tolist() == [i for i in (0, 3, 7, 49) if i != free]


def test_padding_that_is_none() -> None:
    with pytest.raises(TypeError, match=r"`padding_idx\['bias'\]` must be an integer"):
        sparse.value_and_grad(_plain, _announced, padding_idx={"bias": 1.5})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`padding_idx\['bias'\]` must be an integer"):
        sparse.value_and_grad(_plain, _announced, padding_idx={"bias": -1})
    for padding, words in (
        ({"dense": 0}, r"names \['dense'\]"),
        ({"bias": 50}, "50 rows"),
    ):
        grad_fn = sparse.value_and_grad(_plain, _announced, padding_idx=padding)
        with pytest.raises(ValueError, match=words):
            grad_fn(_params(), IDS)


def test_numpy_tables_and_ids() -> None:
    """As they come from a file: in the loss, the gradients and the update."""
    params, ids = jax.device_get(_params()), np.asarray(IDS)
    assert float(_plain(params, ids)) == float(_plain(_params(), IDS))
    grad_fn = sparse.value_and_grad(_plain, _announced)
    found, expected = grad_fn(params, ids), grad_fn(_params(), IDS)
    assert float(found[0]) == float(expected[0])
    tx = rmsprop(0.1, momentum=0.9, weight_decay=0.1, use_ema=True)
    updates, state = tx.update(found[1], tx.init(params), params)
    new = optax.apply_updates(params, updates)
    other, other_state = tx.update(expected[1], tx.init(_params()), _params())
    chex.assert_trees_all_equal(
        (new, state), (optax.apply_updates(_params(), other), other_state)
    )
    rows = sparse.RowSlices.from_dense(np.eye(4, 2, dtype=np.float32))
    np.testing.assert_array_equal(rows.to_dense(), np.eye(4, 2))


def test_aux_keywords_and_tables_that_stay_dense() -> None:
    def loss(params: Any, *, ids: Any) -> Any:
        rows = sparse.lookup(params["encoder"]["embedding"], ids)
        return jnp.sum(rows), {"rows": rows}

    grad_fn = sparse.value_and_grad(
        loss, lambda params, *, ids: {"encoder/embedding": ids}, has_aux=True
    )
    (value, aux), grads = grad_fn(_params(), ids=IDS)
    assert value == jnp.sum(aux["rows"])
    assert aux["rows"].shape == (2, 3, 4)
    assert grads["bias"].shape == (HEIGHT,)
    assert grads["encoder"]["embedding"].indices.tolist() == [0, 3, 7, 49, 50, 50]


@pytest.mark.parametrize("ids", [np.zeros((0,), int), np.full(5, 7), np.array(3)])
def test_no_ids_equal_ids_and_one_id(ids: Any) -> None:
    def loss(params: Any, ids: Any) -> Any:
        return jnp.sum(sparse.lookup(params["t"], ids) ** 2)

    params = {"t": jnp.arange(20.0).reshape(10, 2)}
    value, grads = sparse.value_and_grad(loss, lambda p, ids: {"t": ids})(params, ids)
    dense_value, dense = jax.jit(jax.value_and_grad(loss))(params, ids)
    assert value == dense_value  # of integers
    np.testing.assert_array_equal(grads["t"].to_dense(), dense["t"])


def test_no_gradient_as_large_as_the_table_is_made() -> None:
    def loss(params: Any, ids: Any) -> Any:
        return jnp.sum(sparse.lookup(params["t"], ids) ** 2)

    params = {"t": jnp.zeros((100_000, 8))}
    compiled = jax.jit(sparse.value_and_grad(loss, lambda p, ids: {"t": ids})).lower(
        params, jnp.zeros(16, int)
    )
    memory = compiled.compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 100_000


def test_a_table_that_is_used_as_a_whole_is_an_error() -> None:
    uses = [
        lambda table: jnp.dot(jnp.ones(4), table.T),
        lambda table: table @ jnp.ones(4),
        lambda table: jnp.ones(HEIGHT) @ table,
        lambda table: jnp.sum(table),
        lambda table: table[0],
        lambda table: table + 1.0,
        lambda table: table.mean(),
    ]
    for use in uses:

        def loss(params: Any, ids: Any, use: Any = use) -> Any:
            rows = sparse.lookup(params["encoder"]["embedding"], ids)
            return jnp.sum(rows) + jnp.sum(use(params["encoder"]["embedding"]))

        grad_fn = sparse.value_and_grad(loss, lambda p, ids: {"encoder/embedding": ids})
        with pytest.raises(
            (TypeError, AttributeError), match="leave it out of the `ids`"
        ):
            grad_fn(_params(), IDS)


def test_a_penalty_over_all_leaves_is_an_error_too() -> None:
    def loss(params: Any, ids: Any) -> Any:
        rows = sparse.lookup(params["encoder"]["embedding"], ids)
        penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return jnp.sum(rows) + penalty

    grad_fn = sparse.value_and_grad(loss, lambda p, ids: {"encoder/embedding": ids})
    with pytest.raises((TypeError, ValueError), match="looked up by rows: read it by"):
        grad_fn(_params(), IDS)


def test_a_table_says_its_shape_and_dtype() -> None:
    def loss(params: Any, ids: Any) -> Any:
        table = params["encoder"]["embedding"]
        assert table.shape == (HEIGHT, 4)
        assert table.dtype == jnp.float32
        assert not hasattr(table, "T")
        return jnp.sum(sparse.lookup(table, ids))

    sparse.value_and_grad(loss, lambda p, ids: {"encoder/embedding": ids})(_params(), IDS)


def test_ids_that_were_not_announced_make_nan() -> None:
    def loss(params: Any, ids: Any) -> Any:
        return jnp.sum(sparse.lookup(params["bias"], ids))

    grad_fn = jax.jit(sparse.value_and_grad(loss, lambda p, ids: {"bias": ids[:1]}))
    assert np.isnan(grad_fn(_params(), jnp.array([3, 4]))[0])
    assert np.isfinite(grad_fn(_params(), jnp.array([3, 3]))[0])


def test_ids_outside_of_the_table() -> None:
    table = jnp.ones((10, 2))
    for known in ([-1], [10]):
        with pytest.raises(ValueError, match=f"Row {known[0]} is outside a table of 10"):
            sparse.lookup(table, jnp.array(known))
        grad_fn = sparse.value_and_grad(
            lambda p: 0.0, lambda p, i=known: {"t": np.array(i)}
        )
        with pytest.raises(ValueError, match=f"Row {known[0]} is outside"):
            grad_fn({"t": table})
    traced = jax.jit(lambda ids: sparse.lookup(table, ids))(jnp.array([-1, 10, 9]))
    assert np.isnan(traced[:2]).all()
    assert np.isfinite(traced[2]).all()

    def loss(params: Any, ids: Any) -> Any:
        rows = sparse.lookup(params["t"], ids)
        return jnp.sum(jnp.where(jnp.isnan(rows), 0.0, rows))

    grad_fn = jax.jit(sparse.value_and_grad(loss, lambda p, ids: {"t": ids}))
    _, grads = grad_fn({"t": table}, jnp.array([-1, 10, 9]))
    np.testing.assert_array_equal(grads["t"].to_dense()[:9], 0.0)
    np.testing.assert_array_equal(grads["t"].to_dense()[9], 1.0)


@pytest.mark.parametrize(
    ("announced", "error", "words"),
    [
        ({"embedding": [1]}, ValueError, r"`ids` names 'embedding'.*encoder/embedding"),
        ({"bias": [1.5]}, TypeError, "ids of 'bias' must be integers, got float64"),
    ],
)
def test_what_is_announced_must_fit(announced: Any, error: Any, words: str) -> None:
    grad_fn = sparse.value_and_grad(lambda p: 0.0, lambda p: announced)
    with pytest.raises(error, match=words):
        grad_fn(_params())


def test_float_ids_are_refused() -> None:
    with pytest.raises(TypeError, match="Ids must be integers, got float32"):
        sparse.lookup(jnp.ones((3, 2)), jnp.array([0.5]))


def test_a_table_without_rows_gives_nan_inside_jit() -> None:
    found = jax.jit(sparse.lookup)(jnp.zeros((0, 2)), jnp.array([[1, 2]]))
    assert found.shape == (1, 2, 2)
    assert bool(jnp.all(jnp.isnan(found)))


@pytest.mark.parametrize("spec", [jax.P(), jax.P("d"), jax.P("m")])
def test_sharded_tables_and_ids_on_explicit_meshes(spec: Any) -> None:
    table, ids = np.arange(64.0, dtype=np.float32).reshape(8, 8), [1, 7, 3, 3, 0, 1, 2, 6]

    def loss_fn(params: Any, ids: Any) -> Any:
        return jnp.sum(sparse.lookup(params["t"], ids) ** 2)

    with jax.set_mesh(jax.make_mesh((4, 2), ("d", "m"))):
        params = {"t": jax.device_put(table, jax.P("d", "m"))}
        there = jax.device_put(np.array(ids), spec)
        for lookup in (sparse.lookup, jax.jit(sparse.lookup)):
            np.testing.assert_array_equal(lookup(params["t"], there), table[ids])
        grad_fn = sparse.value_and_grad(loss_fn, lambda params, ids: {"t": ids})
        value, grads = jax.jit(grad_fn)(params, there)
        dense = grads["t"].to_dense()
    assert float(value) == np.sum(table[ids] ** 2)
    expected = np.zeros_like(table)
    np.add.at(expected, ids, 2 * table[ids])
    np.testing.assert_array_equal(dense, expected)
