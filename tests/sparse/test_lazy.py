"""Every transformation on rows: lazy, and equal to dense where all rows are touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import rmsprop_optax as ro
from rmsprop_optax.sparse import RowSlices
from tests.conformance._table import EVERYTHING, ROWS, TABLE

HEIGHT = 6
ACCUMULATES = {
    "rmsprop, everything": lambda: ro.rmsprop(**_everything()),
    "accumulate_gradients": lambda: ro.accumulate_gradients(
        ro.scale_by_rms(), 2, rows={"table": HEIGHT}
    ),
}


def _everything() -> dict[str, Any]:
    return EVERYTHING | {"accumulate_rows": {"table": HEIGHT}}


def _rows(name: str) -> Callable[[], Any]:
    return ACCUMULATES.get(name, TABLE[name])


def _params(dtype: Any = jnp.float32) -> Any:
    rng = np.random.default_rng(1)
    return {
        "table": jnp.asarray(rng.normal(size=(HEIGHT, 3)), dtype),
        "dense": jnp.asarray(rng.normal(size=(2, 3)), dtype),
    }


def _grads(step: int, ids: Any) -> tuple[Any, Any]:
    """The same gradient by rows and dense."""
    rng = np.random.default_rng([2, step])
    values = jnp.asarray(rng.normal(size=(len(ids), 3)), jnp.float32)
    rows = RowSlices(jnp.array(ids), values, (HEIGHT, 3))
    dense = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
    by_rows = {"table": rows, "dense": dense}
    return by_rows, {"table": rows.to_dense(), "dense": dense}


def _run(tx: Any, params: Any, grads: list[Any], wrap: Any = jax.jit) -> Any:
    @wrap
    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for gradient in grads:
        params, state = step(params, state, gradient)
    return params, state


def _assert_close(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_all_rows_touched_is_the_dense_step(name: str) -> None:
    ids = [4, 1, 0, 5, 3, 2, 4]  # each row, one of them twice
    pairs = [_grads(step, ids) for step in range(4)]
    by_rows, rows_state = _run(_rows(name)(), _params(), [rows for rows, _ in pairs])
    dense, dense_state = _run(TABLE[name](), _params(), [dense for _, dense in pairs])
    _assert_close(by_rows, dense)
    if name not in ACCUMULATES:
        _assert_close(rows_state, dense_state)


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_not_touched_keep_everything(name: str) -> None:
    tx, params = _rows(name)(), _params()
    grads = [_grads(step, [1, 4])[0] for step in range(4)]
    after, state = _run(tx, params, grads)
    others = np.array([0, 2, 3, 5])
    np.testing.assert_array_equal(after["table"][others], params["table"][others])
    fresh = tx.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    for old, new in zip(jax.tree.leaves(fresh), jax.tree.leaves(state), strict=True):
        assert old.dtype == new.dtype
        if old.shape == (HEIGHT, 3) and name not in ACCUMULATES:
            np.testing.assert_array_equal(new[others], old[others])


@pytest.mark.parametrize("name", ROWS)
def test_jit_changes_nothing_and_padding_neither(name: str) -> None:
    grads = [_grads(step, [4, 1, 4])[0] for step in range(3)]
    jitted = _run(_rows(name)(), _params(), grads)
    _assert_close(_run(_rows(name)(), _params(), grads, wrap=lambda f: f)[0], jitted[0])
    tight = [
        {
            **g,
            "table": RowSlices.trusted(
                g["table"].indices[:2], g["table"].values[:2], (6, 3)
            ),
        }
        for g in grads
    ]
    _assert_close(_run(_rows(name)(), _params(), tight)[0], jitted[0])


def test_touched_rows_are_a_table_of_their_own() -> None:
    """Rows 1 and 4 of a table move as the two rows of a small one do, and as often."""
    arguments = dict(
        learning_rate=0.1,
        momentum=0.9,
        centered=True,
        nesterov=True,
        weight_decay=0.1,
        clipnorm=0.5,
        use_ema=True,
        ema_momentum=0.5,
    )
    grads = [_grads(step, [1, 4])[0]["table"] for step in range(5)]
    tx, table = ro.rmsprop(**arguments), _params()["table"]
    whole, state = _run(tx, table, grads)
    small, small_state = _run(tx, table[np.array([1, 4])], [g.values for g in grads])
    np.testing.assert_allclose(whole[np.array([1, 4])], small, rtol=1e-6)
    average, small_average = ro.finalize(whole, state), ro.finalize(small, small_state)
    np.testing.assert_allclose(average[np.array([1, 4])], small_average, rtol=1e-6)
    np.testing.assert_array_equal(average[0], table[0])


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_norms_are_those_of_the_dense_gradient(clip: str) -> None:
    """Over coalesced rows: two halves of one row are one row."""
    by_rows, dense = _grads(0, [3, 3, 1])
    tx = ro.rmsprop(0.1, **{clip: 0.7})
    params = _params()
    mine, _ = tx.update(by_rows, tx.init(params), params)
    theirs, _ = tx.update(dense, tx.init(params), params)
    np.testing.assert_allclose(mine["table"].to_dense(), theirs["table"], rtol=1e-6)
    np.testing.assert_allclose(mine["dense"], theirs["dense"], rtol=1e-6)


def test_accumulation_is_the_union_of_the_rows() -> None:
    tx = ro.rmsprop(
        0.1, momentum=0.9, gradient_accumulation_steps=3, accumulate_rows={"table": 5}
    )
    plain = ro.rmsprop(0.1, momentum=0.9)
    params = _params()
    ids = [[1, 4], [4, 2], [1, 1]]
    grads = [_grads(step, some)[0] for step, some in enumerate(ids)]
    after, state = _run(tx, params, grads)
    total = sum(g["table"].to_dense() for g in grads) / 3
    union = RowSlices(jnp.array([1, 2, 4]), total[np.array([1, 2, 4])], (HEIGHT, 3))
    mean = {"table": union, "dense": sum(g["dense"] for g in grads) / 3}
    expected, expected_state = _run(plain, params, [mean])
    _assert_close(after, expected)
    nu = optax.tree.get(state, "nu")["table"]
    np.testing.assert_allclose(
        nu, optax.tree.get(expected_state, "nu")["table"], rtol=1e-5
    )
    empty = optax.tree.get(state, "acc_grads")["table"]
    assert empty.indices.tolist() == [HEIGHT] * 5
    assert not np.any(empty.values)


def test_a_micro_step_moves_nothing() -> None:
    tx = ro.rmsprop(0.1, gradient_accumulation_steps=2, accumulate_rows={"table": 4})
    params = _params()
    gradient = _grads(0, [1, 4])[0]
    updates, state = tx.update(gradient, tx.init(params), params)
    assert updates["table"].indices.tolist() == [HEIGHT] * 4
    after = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(after["table"], params["table"])
    assert optax.tree.get(state, "acc_grads")["table"].indices.tolist() == [1, 4, 6, 6]


def test_too_little_room_can_t_go_unnoticed() -> None:
    tx = ro.rmsprop(0.1, gradient_accumulation_steps=2, accumulate_rows={"table": 2})
    after, _ = _run(tx, _params(), [_grads(0, [1, 4])[0], _grads(1, [4, 2])[0]])
    assert np.isnan(after["table"]).any()
    after, _ = _run(tx, _params(), [_grads(0, [1, 4])[0], _grads(1, [4, 1])[0]])
    assert np.isfinite(after["table"]).all()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"tables": 2}, "'tables', which is not a parameter with rows"),
        ({"table": 0}, r"`rows\['table'\]` must be an integer that is at least 1"),
    ],
)
def test_rooms_that_do_not_fit(rows: dict[str, int], words: str) -> None:
    tx = ro.accumulate_gradients(ro.scale_by_rms(), 2, rows=rows)
    with pytest.raises(ValueError, match=words):
        tx.init(_params())


def test_kinds_that_do_not_fit_what_is_accumulated() -> None:
    by_rows, dense = _grads(0, [1])
    tx = ro.rmsprop(0.1, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"'table' comes by rows.*`rows=\{'table': n\}`"):
        tx.update(by_rows, tx.init(_params()))
    tx = ro.rmsprop(0.1, gradient_accumulation_steps=2, accumulate_rows={"table": 2})
    with pytest.raises(ValueError, match=r"'table' is dense, and is to be accumul"):
        tx.update(dense, tx.init(_params()))
    with pytest.raises(ValueError, match=r"`accumulate_rows`=.* has no effect without"):
        ro.rmsprop(accumulate_rows={"table": 2})


def test_a_gradient_that_is_not_finite_is_skipped_with_its_rows() -> None:
    by_rows, _ = _grads(0, [1, 4])
    bad = RowSlices(jnp.array([1]), jnp.full((1, 3), jnp.inf), (HEIGHT, 3))
    for tx in (ro.rmsprop(skip_nonfinite=True), ro.dynamic_loss_scale(ro.rmsprop())):
        params = _params()
        after, state = _run(tx, params, [{**by_rows, "table": bad}])
        np.testing.assert_array_equal(after["table"], params["table"])
        assert not np.any(optax.tree.get(state, "nu")["table"])


def test_bf16_tables_keep_float32_moments() -> None:
    params = _params(jnp.bfloat16)
    by_rows = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x,
        _grads(0, [1, 4])[0],
    )
    tx = ro.rmsprop(0.1, momentum=0.9)
    updates, state = tx.update(by_rows, tx.init(params), params)
    assert updates["table"].dtype == jnp.bfloat16
    assert optax.tree.get(state, "nu")["table"].dtype == jnp.float32
    assert optax.apply_updates(params, updates)["table"].dtype == jnp.bfloat16


def test_complex_tables_part_by_part() -> None:
    values = jnp.array([[3 + 4j, 1j]])
    rows = RowSlices(jnp.array([2]), values, (4, 2))
    params = jnp.zeros((4, 2), jnp.complex64)
    tx = ro.dialects.torch(1.0, alpha=0.0, eps=0.0)
    after, _ = _run(tx, params, [rows])
    np.testing.assert_array_equal(after[2, 0], -1 - 1j)
    np.testing.assert_array_equal(after[0], 0)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_tables_of_any_rank(rank: int) -> None:
    shape = (5, 2, 3)[:rank]
    rows = RowSlices(jnp.array([3]), jnp.ones((1, *shape[1:])), shape)
    after, _ = _run(ro.rmsprop(0.5, rho=0.0, epsilon=0.0), jnp.zeros(shape), [rows])
    np.testing.assert_array_equal(after[3], np.full(shape[1:], -0.5))
    assert float(jnp.abs(after).sum()) == 0.5 * np.prod(shape[1:])


def test_a_table_of_another_shape_is_named() -> None:
    rows = RowSlices(jnp.array([3]), jnp.ones((1, 3)), (7, 3))
    tx = ro.rmsprop()
    with pytest.raises(ValueError, match=r"'table' has shape \(7, 3\)"):
        tx.update({"table": rows, "dense": None}, tx.init(_params()))


def test_in_a_partition_and_under_a_mask() -> None:
    by_rows, _ = _grads(0, [1, 4])
    params = _params()
    labels = {"table": "rows", "dense": "rest"}
    tx = optax.partition({"rows": ro.rmsprop(0.1), "rest": ro.dialects.torch()}, labels)
    after, _ = _run(tx, params, [by_rows])
    np.testing.assert_array_equal(after["table"][0], params["table"][0])
    assert np.all(after["table"][1] != params["table"][1])
    masked = optax.masked(ro.rmsprop(0.1), {"table": True, "dense": False})
    updates, _ = masked.update(by_rows, masked.init(params), params)
    assert isinstance(updates["table"], RowSlices)


def test_accumulated_rows_survive_a_checkpoint(tmp_path: Path) -> None:
    tx = ro.rmsprop(0.1, gradient_accumulation_steps=2, accumulate_rows={"table": 4})
    params = _params()
    first, second = _grads(0, [1, 4])[0], _grads(1, [4, 2])[0]
    _, state = tx.update(first, tx.init(params), params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(params))
    expected, _ = tx.update(second, state, params)
    updates, _ = tx.update(second, restored, params)
    assert updates["table"].indices.tolist() == [1, 2, 4, HEIGHT]
    np.testing.assert_array_equal(updates["table"].values, expected["table"].values)
