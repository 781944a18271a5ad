"""`lazy` around every transformation, ours and Optax's, and what it refuses."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import rmsprop_optax as ro
from rmsprop_optax import sparse
from rmsprop_optax.sparse import RowSlices
from tests.conformance._table import CORE_ROWS, EVERYTHING, TABLE, rows

HEIGHT = 6
# By default: one of ours, any of Optax's, codes in blocks; where it matters, a norm.
EAGER = ("rmsprop, momentum",)
UNTOUCHED = ("rmsprop, momentum", "lazy, optax.adam", "low_precision, optax.adam")
PADDED = ("clip_by_global_norm", "low_precision, optax.adam", "timm")
# All rows, some of them, and which come twice are data of one program.
MANY_IDS = 7
ACCUMULATES = {
    "rmsprop, everything": lambda: ro.rmsprop(**_everything()),
    "accumulate_gradients": lambda: ro.accumulate_gradients(
        sparse.lazy(ro.scale_by_rms()), 2, sparse.RowSums({"table": HEIGHT})
    ),
}


def _everything() -> dict[str, Any]:
    return EVERYTHING | {"accumulate_rows": {"table": HEIGHT}}


def _rows(name: str) -> Callable[[], Any]:
    return ACCUMULATES.get(name, lambda: sparse.lazy(TABLE[name]()))


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


@pytest.mark.parametrize("name", CORE_ROWS)
def test_all_rows_touched_is_the_dense_step(name: str) -> None:
    ids = np.resize([4, 1, 0, 5, 3, 2], MANY_IDS)  # each row, one of them twice
    pairs = [_grads(step, ids) for step in range(4)]
    by_rows, rows_state = _run(_rows(name)(), _params(), [rows for rows, _ in pairs])
    dense, dense_state = _run(TABLE[name](), _params(), [dense for _, dense in pairs])
    _assert_close(by_rows, dense)
    if name not in ACCUMULATES:
        _assert_close(rows_state, dense_state)


@pytest.mark.parametrize("name", rows(UNTOUCHED))
def test_rows_that_are_not_touched_keep_everything(name: str) -> None:
    tx, params = _rows(name)(), _params()
    grads = [_grads(step, np.resize([1, 4], MANY_IDS))[0] for step in range(4)]
    after, state = _run(tx, params, grads)
    others = np.array([0, 2, 3, 5])
    np.testing.assert_array_equal(after["table"][others], params["table"][others])
    fresh = tx.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    for old, new in zip(jax.tree.leaves(fresh), jax.tree.leaves(state), strict=True):
        assert old.dtype == new.dtype
        if old.shape == (HEIGHT, 3) and name not in ACCUMULATES:
            np.testing.assert_array_equal(new[others], old[others])


@pytest.mark.parametrize("name", rows(EAGER))
def test_jit_changes_nothing(name: str) -> None:
    grads = [_grads(step, np.resize([4, 1], MANY_IDS))[0] for step in range(3)]
    jitted = _run(_rows(name)(), _params(), grads)
    _assert_close(_run(_rows(name)(), _params(), grads, wrap=lambda f: f), jitted)


@pytest.mark.parametrize("name", rows(PADDED))
def test_padding_changes_nothing(name: str) -> None:
    grads = [_grads(step, np.resize([4, 1], MANY_IDS))[0] for step in range(3)]
    tight = [{**g, "table": _without_padding(g["table"])} for g in grads]
    padded = _run(_rows(name)(), _params(), grads)
    _assert_close(_run(_rows(name)(), _params(), tight)[0], padded[0])


def _without_padding(rows: RowSlices) -> RowSlices:
    count = int(np.sum(rows.indices < HEIGHT))
    return RowSlices.from_sorted(rows.indices[:count], rows.values[:count], rows.shape)


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
    # Numbers of about 1, which some machines round otherwise in a vector of two.
    np.testing.assert_allclose(whole[np.array([1, 4])], small, rtol=1e-6, atol=1e-6)
    average, small_average = ro.finalize(whole, state), ro.finalize(small, small_state)
    np.testing.assert_allclose(
        average[np.array([1, 4])], small_average, rtol=1e-6, atol=1e-6
    )
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
    empty = optax.tree.get(state, "acc_grads")
    assert empty.rows["table"].tolist() == [HEIGHT] * 5
    assert not np.any(empty.values["table"])


def test_a_micro_step_moves_nothing() -> None:
    tx = ro.rmsprop(0.1, gradient_accumulation_steps=2, accumulate_rows={"table": 4})
    params = _params()
    gradient = _grads(0, [1, 4])[0]
    updates, state = jax.jit(tx.update)(gradient, tx.init(params), params)
    assert updates["table"].indices.tolist() == [HEIGHT] * 4
    after = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(after["table"], params["table"])
    assert optax.tree.get(state, "acc_grads").rows["table"].tolist() == [1, 4, 6, 6]


def test_too_little_room_can_t_go_unnoticed() -> None:
    tx = ro.rmsprop(0.1, gradient_accumulation_steps=2, accumulate_rows={"table": 2})
    after, _ = _run(tx, _params(), [_grads(0, [1, 4])[0], _grads(1, [4, 2])[0]])
    assert np.isnan(after["table"]).any()
    after, _ = _run(tx, _params(), [_grads(0, [1, 4])[0], _grads(1, [4, 1])[0]])
    assert np.isfinite(after["table"]).all()


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        ({"tables": 2}, ValueError, "'tables', which is not a parameter with rows"),
        ({"table": 0}, ValueError, r"`accumulate_rows\['table'\]` must be an integer"),
        ({"table": 2.5}, TypeError, r"`accumulate_rows\['table'\]` must be an integer"),
        (5, TypeError, "`accumulate_rows` must be a mapping from the path"),
        ({3: 2}, TypeError, "`accumulate_rows` must be a mapping from the path"),
    ],
)
def test_numbers_of_rows_that_do_not_fit(rows: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        sparse.RowSums(rows).init(_params())
    with pytest.raises(error, match=words):
        ro.rmsprop(gradient_accumulation_steps=2, accumulate_rows=rows).init(_params())


def test_kinds_that_do_not_fit_what_is_accumulated() -> None:
    by_rows, dense = _grads(0, [1])
    tx = ro.rmsprop(0.1, gradient_accumulation_steps=2)
    with pytest.raises(TypeError, match=r"'table' .*`accumulate_rows=\{'table': n\}`"):
        jax.eval_shape(tx.update, by_rows, tx.init(_params()))
    tx = ro.rmsprop(0.1, gradient_accumulation_steps=2, accumulate_rows={"table": 2})
    with pytest.raises(ValueError, match=r"'table' is dense, and is to be accumul"):
        jax.eval_shape(tx.update, dense, tx.init(_params()))
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
    updates, state = jax.eval_shape(tx.update, by_rows, tx.init(params), params)
    assert updates["table"].dtype == jnp.bfloat16
    assert optax.tree.get(state, "nu")["table"].dtype == jnp.float32
    after = jax.eval_shape(optax.apply_updates, params, updates)
    assert after["table"].dtype == jnp.bfloat16


def test_complex_tables_part_by_part() -> None:
    values = jnp.array([[3 + 4j, 1j]])
    rows = RowSlices(jnp.array([2]), values, (4, 2))
    params = jnp.zeros((4, 2), jnp.complex64)
    tx = ro.dialects.torch(1.0, alpha=0.0, eps=0.0)
    after, _ = _run(tx, params, [rows])
    np.testing.assert_array_equal(after[2, 0], -1 - 1j)
    np.testing.assert_array_equal(after[0], 0)


@pytest.mark.parametrize("rank", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_tables_of_any_rank(rank: int) -> None:
    shape = (5, 2, 3)[:rank]
    rows = RowSlices(jnp.array([3]), jnp.ones((1, *shape[1:])), shape)
    after, _ = _run(ro.rmsprop(0.5, rho=0.0, epsilon=0.0), jnp.zeros(shape), [rows])
    np.testing.assert_array_equal(after[3], np.full(shape[1:], -0.5))
    assert float(jnp.abs(after).sum()) == 0.5 * np.prod(shape[1:])


def test_a_table_of_another_shape_is_named() -> None:
    rows = RowSlices(jnp.array([3]), jnp.ones((1, 3)), (7, 3))
    tx = ro.rmsprop()
    with pytest.raises(
        ValueError, match=r"'table' .* has shape \(7, 3\).*nu/table' of shape \(6, 3\)"
    ):
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
    update = jax.jit(tx.update)
    _, state = update(first, tx.init(params), params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(params))
    expected, _ = update(second, state, params)
    updates, _ = update(second, restored, params)
    assert updates["table"].indices.tolist() == [1, 2, 4, HEIGHT]
    np.testing.assert_array_equal(updates["table"].values, expected["table"].values)


OPTAX: dict[str, Callable[[], optax.GradientTransformation]] = {
    "rmsprop": lambda: optax.rmsprop(1e-2),
    "rmsprop, momentum": lambda: optax.rmsprop(1e-2, momentum=0.9),
    "rmsprop, centered": lambda: optax.rmsprop(1e-2, centered=True),
    "rmsprop, Nesterov": lambda: optax.rmsprop(1e-2, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(1e-2),
    "adamw": lambda: optax.adamw(1e-2, weight_decay=0.1),
    "lion": lambda: optax.lion(1e-2),
    "sgd": lambda: optax.sgd(1e-2, momentum=0.9),
    "adagrad": lambda: optax.adagrad(1e-2),
    "ema": lambda: optax.ema(0.9),
    "a clipped chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(1e-2)
    ),
    "a norm after epsilon 0": lambda: optax.chain(
        optax.rmsprop(1e-2, eps=0.0), optax.clip_by_global_norm(0.01)
    ),
    "partition": lambda: optax.partition(
        {"a": optax.adam(1e-2), "b": optax.rmsprop(1e-2)},
        {"one": "a", "two": "b", "dense": "a"},
    ),
    "masked": lambda: optax.masked(
        optax.adam(1e-2), {"one": True, "two": False, "dense": True}
    ),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(1e-2),
    "low_precision": lambda: ro.low_precision(
        optax.adam(1e-2), ro.MomentStorage("int8", min_size=0, rounding="nearest")
    ),
    "ours": lambda: ro.rmsprop(**OURS),
    "ours, corrected": lambda: ro.rmsprop(centered=True, bias_correction=True),
    "timm": lambda: ro.dialects.timm(momentum=0.9, caution=True, weight_decay=0.1),
    "torch": lambda: ro.dialects.torch(momentum=0.9, weight_decay=0.1),
}
OURS = dict(
    momentum=0.9, centered=True, weight_decay=0.1, global_clipnorm=1.0, use_ema=True
)
INSIDE = {  # `lazy` inside of Optax's own wrappers
    "in partition": lambda: optax.partition(
        {"a": sparse.lazy(optax.adam(1e-2)), "b": sparse.lazy(optax.rmsprop(1e-2))},
        {"one": "a", "two": "b", "dense": "a"},
    ),
    "in masked": lambda: optax.masked(
        sparse.lazy(optax.adam(1e-2)), {"one": True, "two": True, "dense": False}
    ),
    "in inject_hyperparams": lambda: optax.inject_hyperparams(
        lambda learning_rate: sparse.lazy(optax.adam(learning_rate))
    )(1e-2),
}
HEIGHTS = {"one": 40, "two": 12}
STEPS = 200


def _draw(rng: np.random.Generator, height: int, count: int) -> tuple[Any, Any]:
    """Six ids of every second row only, ``count`` different ones, and their gradients."""
    ids = 2 * rng.choice(height // 2, size=count, replace=False)
    ids = rng.permutation(np.append(ids, rng.choice(ids, size=6 - count)))
    return ids, rng.normal(size=(6, 3)).astype(np.float32)


FEW = ("a clipped chain", "in inject_hyperparams", "ours, corrected", "partition")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FEW else pytest.mark.slow)
        for name in [*OPTAX, *INSIDE]
    ],
)
def test_is_a_dense_run_on_each_row_when_it_is_touched(name: str) -> None:
    """200 steps of two tables and a dense leaf.

    The dense run has the touched rows of a step as its parameters and its state: what is
    gathered and scattered here by hand, without padding, with NumPy.
    """
    inside = name in INSIDE
    tx = INSIDE[name]() if inside else sparse.lazy(OPTAX[name]())
    plain = OPTAX[name]() if not inside else INSIDE[name]()
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=(h, 3)).astype(np.float32) for n, h in HEIGHTS.items()}
    params["dense"] = rng.normal(size=3).astype(np.float32)
    lazy_update, dense_update = _step(tx), _step(plain)
    lazy_params, lazy_state = params, tx.init(params)
    dense_params, dense_state = jax.device_get((params, plain.init(params)))
    for _ in range(STEPS):
        count = rng.choice([3, 6])  # two shapes for the dense run to compile
        grads = {n: _draw(rng, h, count) for n, h in HEIGHTS.items()}
        dense = {"dense": rng.normal(size=3).astype(np.float32)}
        lazy_params, lazy_state = lazy_update(lazy_params, lazy_state, grads, dense)

        rows = {n: np.unique(ids) for n, (ids, _) in grads.items()}
        summed = {n: _sum(*grads[n], rows[n]) for n in rows}

        def take(name: str, x: Any, rows: Any = rows) -> Any:
            return x[rows[name]]

        def put(name: str, new: Any, x: Any, rows: Any = rows) -> Any:
            x = np.array(x)
            x[rows[name]] = new
            return x

        small = _by_table((dense_params, dense_state), take)
        small = jax.device_get(dense_update(*small, summed, dense))
        dense_params, dense_state = _by_table(small, put, (dense_params, dense_state))
    for a, b in zip(
        jax.tree.leaves((lazy_params, lazy_state)),
        jax.tree.leaves((dense_params, dense_state)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    np.testing.assert_array_equal(lazy_params["one"][1::2], params["one"][1::2])


def _step(tx: Any) -> Any:
    """A step that takes the gradients of tables as rows, or as dense arrays."""

    @jax.jit
    def step(params: Any, state: Any, tables: Any, dense: Any) -> Any:
        grads = {
            n: RowSlices(*g, (HEIGHTS[n], 3)) if isinstance(g, tuple) else g
            for n, g in tables.items()
        }
        updates, state = tx.update({**grads, **dense}, state, params)
        return optax.apply_updates(params, updates), state

    return step


def _sum(ids: Any, values: Any, rows: Any) -> Any:
    """The sum of the gradients of each row."""
    return np.stack([values[ids == row].sum(axis=0) for row in rows])


def _by_table(state: Any, fn: Any, *others: Any) -> Any:
    """``fn`` of each array of the state that belongs to a table."""

    def change(keys: Any, leaf: Any, *rest: Any) -> Any:
        name = jax.tree_util.keystr(keys[-1:], simple=True)
        return fn(name, leaf, *rest) if name in HEIGHTS and leaf.ndim == 2 else leaf

    return jax.tree_util.tree_map_with_path(change, state, *others)


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_padding_makes_no_nan_and_counts_in_no_norm(eps: float) -> None:
    """One row of eight is touched. A norm is taken after a division by epsilon 0."""
    tx = sparse.lazy(
        optax.chain(
            optax.add_decayed_weights(0.5),
            optax.scale_by_rms(eps=eps),
            optax.clip_by_global_norm(1e-3),
        )
    )
    table = jnp.full((5, 2), 7.0)
    padded = RowSlices(jnp.full(8, 3), jnp.ones((8, 2)), (5, 2))
    tight = RowSlices.from_sorted(padded.indices[:1], padded.values[:1], (5, 2))
    updates = [tx.update(g, tx.init(table), table)[0] for g in (padded, tight)]
    np.testing.assert_array_equal(updates[0].to_dense(), updates[1].to_dense())
    assert np.isfinite(updates[0].values).all()


def test_a_batch_that_touches_nothing() -> None:
    tx = sparse.lazy(optax.adam(0.1))
    table = jnp.ones((5, 2))
    none = RowSlices(jnp.zeros(0, jnp.int32), jnp.zeros((0, 2)), (5, 2))
    updates, _ = tx.update(none, tx.init(table), table)
    np.testing.assert_array_equal(optax.apply_updates(table, updates), table)


def test_a_row_that_comes_back_follows_the_lazy_formula() -> None:
    """Centered and bias-corrected: m and v of the row, the clock of the table."""
    tx = ro.rmsprop(1.0, centered=True, bias_correction=True, epsilon=1e-7)
    table = jnp.zeros((2, 1))
    state, m, v, update = tx.init(table), 0.0, 0.0, None
    for t in range(1, 33):
        row, g = (0, 1.0 if t == 1 else 2.0) if t in (1, 32) else (1, 0.3)
        grads = RowSlices(jnp.array([row]), jnp.full((1, 1), g), (2, 1))
        update, state = jax.jit(tx.update)(grads, state, table)
        if row == 0:
            m, v = 0.9 * m + 0.1 * g, 0.9 * v + 0.1 * g * g
    c = 1 - 0.9**32
    expected = -2.0 / np.sqrt(v / c - (m / c) ** 2 + 1e-7)
    np.testing.assert_allclose(update.values[0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: optax.adafactor(1e-2, min_dim_size_to_factor=2),
            r"'table' comes by rows.*v_\w+/table' of shape .* can't be cut",
        ),
        (
            lambda: ro.accumulate_gradients(optax.adam(1e-2), 2),
            r"acc_grads.*accumulate around `lazy`",
        ),
        (lambda: optax.MultiSteps(optax.adam(1e-2), 2), r"acc_grads.*around `lazy`"),
        (lambda: optax.apply_every(2), r"grad_acc.*adds gradients up .*around `lazy`"),
        (
            lambda: optax.chain(optax.sgd(1.0), optax.apply_every(2)),
            r"'1/grad_acc/table' adds gradients up",
        ),
        (lambda: optax.sm3(0.1), r"'0/mu/table/1' of shape \(3,\) can't be cut"),
        (
            lambda: optax.scale_by_lbfgs(3),
            r"diff_params_memory/table' of shape \(3, 6, 3\) can't be cut",
        ),
    ],
)
def test_a_state_that_has_no_rows_is_refused_by_its_name(make: Any, words: str) -> None:
    tx = make()
    tx = sparse.lazy(optax.GradientTransformationExtraArgs(tx.init, tx.update))
    params = _params()
    with pytest.raises(ValueError, match=words):
        jax.jit(tx.update)(_grads(0, [1, 4])[0], tx.init(params), params)


class _RowwiseState(NamedTuple):
    sums: Any


def _rowwise_adagrad() -> Any:
    """One number a row, the sum of the means of squares, as recommenders have it."""

    def init(params: Any) -> Any:
        return _RowwiseState(jax.tree.map(lambda p: jnp.zeros(p.shape[:1]), params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        square = lambda g, s: s + jnp.mean(g**2, axis=1)  # noqa: E731
        sums = jax.tree.map(square, updates, state.sums)
        scale = lambda g, s: -g / (jnp.sqrt(s)[:, None] + 1e-7)  # noqa: E731
        return jax.tree.map(scale, updates, sums), _RowwiseState(sums)

    return optax.GradientTransformation(init, update)


def test_one_number_a_row_is_cut_by_rows() -> None:
    inner, tables = _rowwise_adagrad(), {"table": jnp.ones((6, 3)), "other": None}
    tx, g = sparse.lazy(inner), jnp.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])
    rows = RowSlices(jnp.array([1, 4]), g, (6, 3))
    dense, state, known = rows.to_dense(), tx.init(tables), inner.init(tables)
    for _ in range(2):
        updates, state = tx.update({"table": rows, "other": None}, state, tables)
        expected, known = inner.update({"table": dense, "other": None}, known)
        chex.assert_trees_all_close(updates["table"].to_dense(), expected["table"])
        chex.assert_trees_all_close(state, known)
    square = {"table": jnp.ones((6, 6))}  # as well one number a column
    grads = {"table": RowSlices(jnp.array([1]), jnp.ones((1, 6)), (6, 6))}
    with pytest.raises(ValueError, match=r"'sums/table' of shape \(6,\) can't be cut"):
        tx.update(grads, tx.init(square), square)


def test_a_vector_by_rows_in_eight_bits() -> None:
    params = {"bias": jnp.zeros(5000), "table": jnp.zeros((64, 64))}
    rows = RowSlices(jnp.array([3, 4999]), jnp.array([0.5, -2.0]), (5000,))
    grads = {"bias": rows, "table": jnp.ones((64, 64))}
    found, expected = (
        tx.update(grads, tx.init(params), params)
        for tx in (ro.rmsprop(0.1, moment_storage=s) for s in ("int8", None))
    )
    chex.assert_trees_all_equal(found[0]["bias"].values, expected[0]["bias"].values)
    assert optax.tree.get(found[1], "nu")["table"].dtype == jnp.uint8


@pytest.mark.parametrize(
    "make",
    [
        *(optax.sgd, optax.adam, optax.lion, optax.ema, optax.rmsprop),
        *(optax.add_decayed_weights, lambda _: optax.MultiSteps(optax.sgd(0.1), 2)),
        *(ro.scale_by_rms, ro.clip_by_global_norm),
    ],
)
def test_rows_without_lazy_are_refused_with_the_remedy(make: Any) -> None:
    tx, params = make(0.1), _params()
    with pytest.raises((TypeError, ValueError), match=r"sparse\.lazy"):
        tx.update(_grads(0, [1, 4])[0], tx.init(params), params)


def test_a_model_with_functions_in_it_is_not_looked_at() -> None:
    params = {"w": jnp.ones(3), "act": jax.nn.relu, "key": jax.random.key(0), "n": 3}
    grads = {"w": jnp.ones(3), "act": None, "key": None, "n": None}
    filtered = {"w": jnp.ones(3), "act": None, "key": None, "n": None}
    for make in (
        lambda: sparse.lazy(optax.adamw(0.1)),
        lambda: ro.rmsprop(0.1, momentum=0.9, weight_decay=0.1, use_ema=True),
        lambda: ro.rmsprop(0.1, moment_storage="bfloat16", skip_nonfinite=True),
        lambda: ro.dialects.torch(momentum=0.9, weight_decay=0.1),
        lambda: ro.dialects.timm(weight_decay=0.1),
    ):
        tx = make()
        state = tx.init(filtered)
        update = partial(tx.update, params=params)  # its functions are no arguments
        updates, new = jax.eval_shape(update, grads, state)
        assert updates["act"] is None
        assert jax.tree.structure(new) == jax.tree.structure(state)


def test_specs_of_parameters_fit_sums_of_rows() -> None:
    tx = ro.rmsprop(gradient_accumulation_steps=2, accumulate_rows={"table": 4})
    params = _params() | {"none": None}
    specs = {"table": "rows", "dense": "whole", "none": None}
    found = optax.tree.map_params(
        tx, lambda _, spec: spec, tx.init(params), specs, transform_non_params=lambda _: 0
    )
    sums = optax.tree.get(found, "acc_grads")
    assert sums.values == specs
    assert sums.rows == specs
    assert optax.tree.get(found, "nu") == specs
