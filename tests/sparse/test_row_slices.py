"""The leaf itself: sums, padding, crossing transformations, errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmsprop_optax.sparse import RowSlices

# Few shapes: every one of them is compiled.
lists = st.sampled_from([0, 1, 9]).flatmap(
    lambda size: st.lists(st.integers(0, 9), min_size=size, max_size=size)
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(lists, st.booleans(), st.sampled_from([0, 1, 3]))
def test_duplicates_are_summed_and_rows_sorted(
    ids: list[int], jitted: bool, axes: int
) -> None:
    shape = (10, 2, 3, 1)[: axes + 1]
    values = np.random.default_rng(len(ids)).normal(size=(len(ids), *shape[1:]))
    values = values.astype(np.float32)

    def make(ids: jax.Array, values: jax.Array) -> RowSlices:
        return RowSlices(ids, values, shape)

    rows = (jax.jit(make) if jitted else make)(jnp.array(ids, int), jnp.array(values))
    dense = np.zeros(shape, np.float32)
    np.add.at(dense, np.array(ids, int), values)
    np.testing.assert_allclose(rows.to_dense(), dense, rtol=1e-6)
    unique = sorted(set(ids))
    padding = [10] * (len(ids) - len(unique))
    assert rows.indices.tolist() == unique + padding
    assert not np.any(rows.values[len(unique) :])
    assert rows.shape == shape
    assert rows.indices.dtype == jnp.int32


def test_from_dense_and_back() -> None:
    dense = jnp.zeros((6, 2)).at[4].set(3.0).at[1, 1].set(-1.0)
    rows = RowSlices.from_dense(dense)
    assert rows.indices.tolist() == [1, 4]
    np.testing.assert_array_equal(rows.to_dense(), dense)
    padded = jax.jit(lambda table: RowSlices.from_dense(table, size=4))(dense)
    assert padded.indices.tolist() == [1, 4, 6, 6]
    np.testing.assert_array_equal(padded.to_dense(), dense)
    assert RowSlices.from_dense(jnp.zeros((3, 2))).indices.shape == (0,)


@pytest.mark.parametrize("kept", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("given", ["float32", "bfloat16"])
def test_apply_updates_rounds_as_the_dense_sum_does(kept: str, given: str) -> None:
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=(8, 3)), kept)
    rows = RowSlices(
        jnp.array([6, 2]), jnp.asarray(rng.normal(size=(2, 3)), given), (8, 3)
    )
    made = jax.jit(optax.apply_updates)({"a": params}, {"a": rows})["a"]
    dense = optax.apply_updates(params, rows.to_dense())
    assert made.dtype == params.dtype
    np.testing.assert_array_equal(np.float32(made), np.float32(dense))
    np.testing.assert_array_equal(made, optax.apply_updates(params, rows))


def test_nothing_as_large_as_the_table_is_made() -> None:
    rows = RowSlices(jnp.array([6, 2]), jnp.ones((2, 3)), (10_000, 3))
    params = jnp.zeros((10_000, 3))
    apply = jax.jit(optax.apply_updates, donate_argnums=0)
    memory = apply.lower(params, rows).compile().memory_analysis()
    assert memory.temp_size_in_bytes < params.nbytes / 100


def test_a_numpy_table_waits_for_the_rows() -> None:
    rows = RowSlices(jnp.array([1]), jnp.ones((1, 2)), (3, 2))
    np.testing.assert_array_equal(np.zeros((3, 2)) + rows, [[0, 0], [1, 1], [0, 0]])


def test_it_crosses_scan_cond_vmap_and_shard_map() -> None:
    rows = RowSlices(jnp.array([1, 1]), jnp.ones((2, 2)), (3, 2))

    def twice(carry: RowSlices, _: None) -> tuple[RowSlices, None]:
        doubled = RowSlices.from_sorted(carry.indices, carry.values * 2, carry.shape)
        return jax.lax.cond(True, lambda: doubled, lambda: carry), None

    out, _ = jax.lax.scan(twice, rows, None, length=3)
    assert float(out.to_dense()[1, 0]) == 16.0
    many = jax.vmap(lambda i: RowSlices(i[None], jnp.ones((1, 2)), (3, 2)))(jnp.arange(2))
    assert many.indices.shape == (2, 1)
    mesh = jax.make_mesh((8,), ("data",))
    mapped = jax.shard_map(
        lambda rows: rows.to_dense(), mesh=mesh, in_specs=jax.P(), out_specs=jax.P()
    )
    np.testing.assert_array_equal(jax.jit(mapped)(rows), rows.to_dense())


def test_repr() -> None:
    rows = RowSlices(jnp.array([5, 1, 5]), jnp.ones((3, 4)), (1000, 4))
    expected = (
        "RowSlices(2 of 1000 rows (1 free), row shape (4,), float32, indices [1 5])"
    )
    assert repr(rows) == expected
    seen = []
    jax.jit(lambda rows: seen.append(repr(rows)))(rows)
    assert seen == ["RowSlices(up to 3 of 1000 rows, row shape (4,), float32)"]
    assert "bool" in repr(jax.tree.map(lambda _: True, rows))


@pytest.mark.parametrize("ids", [[-1], [10], [2, -7]])
def test_known_ids_outside_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match=f"Row {ids[-1]} is outside a table of 10"):
        RowSlices(jnp.array(ids), jnp.ones((len(ids), 2)), (10, 2))


def test_traced_ids_outside_are_dropped_and_touch_no_other_row() -> None:
    def run(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = RowSlices(ids, jnp.ones((4, 2)), (10, 2))
        return rows.to_dense(), jnp.zeros((10, 2)) + rows

    for made in jax.jit(run)(jnp.array([-1, 10, 3, 2**30])):
        assert float(made.sum()) == 2.0
        assert float(made[3].sum()) == 2.0


@pytest.mark.parametrize(
    ("indices", "values", "shape", "error", "words"),
    [
        ([0.5], (1, 2), (3, 2), TypeError, "must be integers, got float32"),
        ([0], (1, 3), (3, 2), ValueError, r"got \(1,\) and \(1, 3\)"),
        ([[0]], (1, 2), (3, 2), ValueError, r"got \(1, 1\)"),
        ([0], (1,), (), ValueError, "at least one axis"),
    ],
)
def test_shapes_and_dtypes(
    indices: list, values: tuple, shape: tuple, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        RowSlices(jnp.array(indices), jnp.ones(values), shape)


def test_adding_to_another_table() -> None:
    rows = RowSlices(jnp.array([1]), jnp.ones((1, 2)), (3, 2))
    with pytest.raises(ValueError, match=r"shape \(4, 2\).*table of shape \(3, 2"):
        optax.apply_updates(jnp.zeros((4, 2)), rows)


@pytest.mark.parametrize(
    "use",
    [
        lambda rows: optax.scale(0.5).update(rows, optax.EmptyState()),
        lambda rows: optax.scale(-1).update(rows, optax.EmptyState()),
        lambda rows: optax.clip(1.0).update(rows, optax.EmptyState()),
        lambda rows: jax.tree.map(lambda g: -g, rows),
        lambda rows: jax.tree.map(lambda g: g * 2, rows),
    ],
)
@pytest.mark.parametrize("jitted", [False, True])
def test_what_knows_nothing_of_rows_can_t_change_indices(use: Any, jitted: bool) -> None:
    rows = {"a": RowSlices(jnp.array([1]), jnp.ones((1, 2)), (3, 2))}
    with pytest.raises((TypeError, ValueError), match=r"sparse\.lazy"):
        (jax.jit(use) if jitted else use)(rows)


@pytest.mark.parametrize(
    "use", [optax.tree.norm, lambda rows: optax.tree.cast(rows, jnp.bfloat16)]
)
def test_what_knows_nothing_of_rows_can_t_read_indices(use: Any) -> None:
    rows = {"a": RowSlices(jnp.array([1]), jnp.ones((1, 2)), (3, 2))}
    with pytest.raises((TypeError, ValueError), match=r"sparse\.lazy"):
        jax.jit(use)(rows)
    # Outside of jit it is JAX's own words, about a method that such indices have not.
    with pytest.raises(NotImplementedError, match="abstract method"):
        use(rows)


def test_what_only_looks_for_nan_changes_nothing() -> None:
    rows = {"a": RowSlices(jnp.array([1]), jnp.array([[jnp.nan, 2.0]]), (3, 2))}
    updates, state = optax.zero_nans().update(rows, optax.EmptyState())
    np.testing.assert_array_equal(
        optax.apply_updates(jnp.zeros((3, 2)), updates["a"]), [[0, 0], [0, 2], [0, 0]]
    )
    assert "RowSlices(up to ?" in repr(state)


def test_another_optimizer_is_an_error() -> None:
    rows = {"a": RowSlices(jnp.array([1]), jnp.ones((1, 2)), (3, 2))}
    tx = optax.adam(0.1)
    state = tx.init({"a": jnp.zeros((3, 2))})
    with pytest.raises((TypeError, ValueError), match=r"\w"):
        tx.update(rows, state)


@pytest.mark.parametrize("shape", ["32", (3.5, 2), 3, (-1, 2), (2**31, 2)])
def test_what_is_no_shape(shape: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="`shape` must"):
        RowSlices(jnp.array([1]), jnp.ones((1, 2)), shape)
