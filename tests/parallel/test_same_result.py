"""1, 2, 4 and 8 devices give what one device gives on the whole batch."""

import inspect
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

import rmsprop_optax as ro
from rmsprop_optax import parallel
from tests.parallel import _problem
from tests.parallel._problem import (
    ARGUMENTS,
    OTHERS,
    assert_same,
    by_rows,
    loss_fn,
    mesh,
)

# A clip, which needs all shards, around a transformation of single elements.
FEW = [("a clip in a chain", 8)]
ALL = [(kind, n) for kind in ARGUMENTS for n in (1, 2, 4, 8)]
ALL += [(kind, n) for kind in OTHERS for n in (2, 8)]
# Rows that are accumulated need a size: test_tables_by_rows_that_are_accumulated.
BY_ROWS = [(kind, n) for kind, n in ALL if kind in ARGUMENTS and kind != "accumulation"]


def _each(cases: list[tuple[str, int]], few: list[tuple[str, int]]) -> Any:
    marked = [
        pytest.param(*case, marks=[] if case in few else pytest.mark.slow)
        for case in cases
    ]
    return pytest.mark.parametrize(("kind", "devices"), marked)


# In float32 the order of a sum may decide to which side a moment is rounded, and does
# so for a few of them in stochastic rounding.
STOCHASTIC = ("int8", "bfloat16", "adamw in 8 bits")
for_each = pytest.mark.parametrize(
    ("kind", "devices", "dtype"),
    [
        pytest.param(*case, dtype, marks=[] if case in few else pytest.mark.slow)
        for dtype, few in (("float64", FEW), ("float32", []))
        for case in ALL
        if dtype == "float64" or case[0] not in STOCHASTIC
    ],
)


def _compare(make_step: Any, make: Any, dtype: Any, **options: Any) -> None:
    with jax.enable_x64(np.dtype(dtype) == np.float64):
        batches = _problem.batches(dtype)
        grads = options.get("value_and_grad", jax.value_and_grad)
        expected = _problem.one_device(make(), _problem.params(dtype), batches, grads)
        tx = make()
        step = make_step(tx, **options)
        assert_same(
            _problem.run(step, tx, _problem.params(dtype), batches), expected, dtype
        )


def _of(kind: str) -> Any:
    return OTHERS.get(kind, lambda: _problem.make(ARGUMENTS[kind]))


def test_every_argument_of_the_factory_is_in_the_table() -> None:
    covered = {name for arguments in ARGUMENTS.values() for name in arguments}
    left = set(inspect.signature(ro.rmsprop).parameters) - covered
    # `axis_name` is for a `shard_map` of one's own; rows that are accumulated come below.
    assert left == {"accumulate_rows", "axis_name"}


@for_each
def test_data_parallel(kind: str, devices: int, dtype: str) -> None:
    def make_step(tx: Any, **options: Any) -> Any:
        return parallel.data_parallel(loss_fn, tx, mesh(devices), **options)

    _compare(make_step, _of(kind), dtype)


@for_each
def test_sharded_data_parallel(kind: str, devices: int, dtype: str) -> None:
    def make_step(tx: Any, **options: Any) -> Any:
        return parallel.sharded_data_parallel(loss_fn, tx, mesh(devices), **options)

    _compare(make_step, _of(kind), dtype)


@_each(BY_ROWS, [("momentum", 8)])
@pytest.mark.parametrize(
    ("make", "micro_steps"),
    [
        ("data_parallel", 3),
        pytest.param("data_parallel", 1, marks=pytest.mark.slow),
        pytest.param("sharded_data_parallel", 1, marks=pytest.mark.slow),
    ],
)
def test_tables_by_rows(kind: str, devices: int, make: str, micro_steps: int) -> None:
    """With a row that is not touched left alone, as on one device."""

    def make_step(tx: Any, **options: Any) -> Any:
        step = getattr(parallel, make)
        return step(loss_fn, tx, mesh(devices), micro_steps=micro_steps, **options)

    _compare(make_step, _of(kind), "float64", value_and_grad=by_rows)


@pytest.mark.parametrize(
    "make",
    ["sharded_data_parallel", pytest.param("data_parallel", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (AxisType.Explicit, AxisType.Auto),
        (AxisType.Auto, AxisType.Explicit),
        pytest.param(AxisType.Auto, AxisType.Auto, marks=pytest.mark.slow),
        pytest.param(AxisType.Explicit, AxisType.Explicit, marks=pytest.mark.slow),
    ],
)
def test_tables_by_rows_beside_a_second_axis(make: str, first: Any, second: Any) -> None:
    both = jax.make_mesh((4, 2), ("data", "model"), axis_types=(first, second))

    def make_step(tx: Any, **options: Any) -> Any:
        return getattr(parallel, make)(loss_fn, tx, both, **options)

    _compare(make_step, _of("momentum"), "float64", value_and_grad=by_rows)


@pytest.mark.slow
@pytest.mark.parametrize("make", ["data_parallel", "sharded_data_parallel"])
def test_tables_by_rows_that_are_accumulated(make: str) -> None:
    arguments = {
        "gradient_accumulation_steps": 2,
        "accumulate_rows": {"table": 2 * 2 * _problem.BATCH},
        "momentum": 0.9,
        "use_ema": True,
    }

    def make_step(tx: Any, **options: Any) -> Any:
        return getattr(parallel, make)(loss_fn, tx, mesh(8), **options)

    _compare(
        make_step,
        lambda: ro.rmsprop(0.05, **arguments),
        "float64",
        value_and_grad=by_rows,
    )


@pytest.mark.parametrize(
    "make",
    ["data_parallel", pytest.param("sharded_data_parallel", marks=pytest.mark.slow)],
)
def test_micro_steps_change_nothing(make: str) -> None:
    def make_step(tx: Any, **options: Any) -> Any:
        step = getattr(parallel, make)
        return step(loss_fn, tx, mesh(4), micro_steps=3, **options)

    _compare(make_step, _of("momentum"), "float64")


@pytest.mark.parametrize(
    "kind", ["momentum", pytest.param("accumulation", marks=pytest.mark.slow)]
)
def test_a_sharded_state_under_jit(kind: str) -> None:
    """No step of ours: `state_sharding`, and what XLA makes of it."""
    tx = _problem.make(ARGUMENTS[kind])
    with jax.enable_x64(True):
        params, batches = _problem.params("float64"), _problem.batches("float64")
        expected = _problem.one_device(tx, params, batches)
        shardings = parallel.state_sharding(tx, params, mesh(8))
        opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
        whole = jax.NamedSharding(mesh(8), jax.P())

        def step(params: Any, opt_state: Any, batch: Any) -> Any:
            grads = jax.grad(lambda p: ro.scale_loss(loss_fn(p, batch), opt_state))(
                params
            )
            updates, opt_state = tx.update(grads, opt_state, params)
            return jax.tree.map(jax.numpy.add, params, updates), opt_state

        step = jax.jit(step, out_shardings=(whole, shardings), donate_argnums=(0, 1))
        params = jax.device_put(params, whole)
        for batch in batches:
            split = jax.device_put(batch, jax.NamedSharding(mesh(8), jax.P("data")))
            params, opt_state = step(params, opt_state, split)
        assert_same((params, opt_state), expected[:2], "float64")
