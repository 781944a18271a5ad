"""Rows of tables in one piece: which arrays get the layout, and which steps keep it."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.layout import Format, Layout

import rmsprop_optax as ro
from rmsprop_optax import parallel, sparse
from rmsprop_optax.parallel import _row_formats
from tests.parallel._problem import mesh

KINDS = ["data_parallel", "sharded_data_parallel"]
BY_COLUMNS = Layout((1, 0))


def _params() -> Any:
    return {
        "table": jnp.linspace(-1.0, 1.0, 48 * 8).reshape(48, 8),
        "layer": {"table": jnp.ones((8, 4)), "bias": jnp.ones(4)},
    }


def _loss_fn(params: Any, ids: Any) -> Any:
    rows = sparse.lookup(params["table"], ids)
    return jnp.mean((rows @ params["layer"]["table"] + params["layer"]["bias"]) ** 2)


BY_ROWS = partial(sparse.value_and_grad, ids=lambda params, ids: {"table": ids})
EVERYTHING = {"momentum": 0.9, "centered": True, "bias_correction": True, "use_ema": True}
TRANSFORMATIONS = {
    "factory": (lambda: ro.rmsprop(**EVERYTHING), 4),
    "lazy": (lambda: sparse.lazy(optax.adam(0.1)), 2),
    "int8": (lambda: ro.rmsprop(moment_storage=ro.MomentStorage("int8", min_size=0)), 1),
    "rows that wait": (
        lambda: ro.rmsprop(gradient_accumulation_steps=2, accumulate_rows={"table": 8}),
        1,
    ),
}


@pytest.mark.parametrize("kind", TRANSFORMATIONS)
@pytest.mark.parametrize("axis_name", [None, "data"])
def test_arrays_of_the_shape_of_a_table_get_the_layout(kind: str, axis_name: Any) -> None:
    make, count = TRANSFORMATIONS[kind]
    tx, params = make(), _params()
    of_params, of_state = parallel.row_formats(tx, params, ["table"], mesh(8), axis_name)
    assert of_params["table"].layout == Layout((0, 1))
    assert not any(isinstance(x, Format) for x in jax.tree.leaves(of_params["layer"]))
    opt_state = jax.eval_shape(tx.init, params)
    plain = parallel.state_sharding(tx, params, mesh(8))
    found = 0
    for leaf, chosen, sharding in zip(
        *map(jax.tree.leaves, (opt_state, of_state, plain)), strict=True
    ):
        if isinstance(chosen, Format):
            assert leaf.shape == (48, 8)
            assert chosen.layout == Layout((0, 1))
            chosen, found = chosen.sharding, found + 1
        if axis_name is not None:
            assert chosen == sharding
        else:
            assert chosen.is_fully_replicated
    assert found == count


def test_a_table_that_is_sharded_stays_so() -> None:
    split = jax.NamedSharding(mesh(4), jax.P("data"))
    params = jax.device_put(jnp.ones((16, 8)), split)
    tx = ro.rmsprop()
    of_params, of_state = parallel.row_formats(tx, params, ["<the root>"], mesh(4))
    assert of_params == optax.tree.get(of_state, "nu") == Format(Layout((0, 1)), split)


@pytest.mark.parametrize("tables", [["tables"], ["layer/bias"]])
def test_what_is_no_table_is_named(tables: Any) -> None:
    with pytest.raises(ValueError, match=r"rows are \['layer/table', 'table'\]"):
        parallel.row_formats(ro.rmsprop(), _params(), tables, mesh(1))
    with pytest.raises(TypeError, match="`tables` must be a list of names"):
        parallel.row_formats(ro.rmsprop(), _params(), "table", mesh(1))


def test_a_step_of_ones_own_keeps_them_and_gives_the_same() -> None:
    tx = ro.rmsprop(0.1, momentum=0.9)

    def step(params: Any, opt_state: Any, ids: Any) -> Any:
        _, grads = BY_ROWS(_loss_fn)(params, ids)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    ids, params = jnp.array([3, 7, 3]), _params()
    expected = jax.jit(step)(params, tx.init(params), ids)
    formats = parallel.row_formats(tx, params, ["table"], mesh(1))
    held = jax.device_put((params, tx.init(params)), formats)
    here = jax.NamedSharding(mesh(1), jax.P())
    stepped = jax.jit(
        step,
        donate_argnums=(0, 1),
        in_shardings=(*formats, here),
        out_shardings=formats,
    )(*held, jax.device_put(ids, here))
    for a, b in zip(*map(jax.tree.leaves, (stepped, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert stepped[0]["table"].format.layout.major_to_minor == (0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_parallel_step_keeps_the_formats_that_it_is_given(kind: str) -> None:
    """By columns, which no CPU chooses."""
    tx, ids = ro.rmsprop(0.1, momentum=0.9), jnp.arange(16) % 5

    def run(formats: Any) -> Any:
        step = getattr(parallel, kind)(_loss_fn, tx, mesh(8), value_and_grad=BY_ROWS)
        held = jax.device_put((_params(), tx.init(_params())), formats)
        params, opt_state, _ = step(*held, ids)
        return step(params, opt_state, ids)

    axis = "data" if kind == "sharded_data_parallel" else None
    rows = parallel.row_formats(tx, _params(), ["table"], mesh(8), axis)
    columns = jax.tree.map(
        lambda x: Format(BY_COLUMNS, x.sharding) if isinstance(x, Format) else x, rows
    )
    expected, stepped = run(rows), run(columns)
    for a, b in zip(*map(jax.tree.leaves, (stepped, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    for a, given in zip(*map(jax.tree.leaves, (stepped[:2], columns)), strict=True):
        if isinstance(given, Format):
            assert a.format.layout.major_to_minor == (1, 0)


@pytest.mark.parametrize(
    ("columns", "layout", "is_named"),
    [
        (64, None, True),
        (128, None, False),
        (64, Layout((0, 1)), False),
        (128, BY_COLUMNS, True),
    ],
)
def test_a_step_names_the_tables_that_it_copies(
    columns: int, layout: Any, is_named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_row_formats, "COLUMNS", {"cpu": 128})
    whole = jax.NamedSharding(mesh(2), jax.P())
    table = jax.ShapeDtypeStruct((32, columns), jnp.float32, sharding=whole)
    if layout is not None:
        table = table.update(sharding=Format(layout, whole))
    shapes = jax.eval_shape(_params)
    shapes["layer"]["table"] = jax.ShapeDtypeStruct((columns, 4), jnp.float32)
    params = {**shapes, "table": table}
    tx = ro.rmsprop()
    step = parallel.data_parallel(_loss_fn, tx, mesh(2), value_and_grad=BY_ROWS)
    args = params, jax.eval_shape(tx.init, params), jax.ShapeDtypeStruct((8,), jnp.int32)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        step.lower(*args)
    named = [str(w.message) for w in found if "row_formats" in str(w.message)]
    assert len(named) == is_named
    if named:
        assert named[0].startswith("The tables ['table'] are stored by columns")
