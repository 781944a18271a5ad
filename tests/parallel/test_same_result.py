"""1, 2, 4 and 8 devices give what one device gives on the whole batch."""

import inspect
from typing import Any

import jax
import numpy as np
import pytest

import rmsprop_optax as ro
from rmsprop_optax import parallel
from tests.parallel import _problem
from tests.parallel._problem import ARGUMENTS, assert_same, by_rows, loss_fn, mesh

FEW = [("momentum", 8)]
ALL = [(kind, n) for kind in ARGUMENTS for n in (1, 2, 4, 8)]
# Rows that are accumulated need room: test_tables_by_rows_that_are_accumulated.
AT_ONCE = [(kind, n) for kind, n in ALL if kind != "accumulation"]


def _each(cases: list[tuple[str, int]]) -> Any:
    marked = [
        pytest.param(*case, marks=[] if case in FEW else pytest.mark.slow)
        for case in cases
    ]
    return pytest.mark.parametrize(("kind", "devices"), marked)


for_each = _each(ALL)


def _compare(make_step: Any, kind: str, dtype: Any, *, axis: bool, **options: Any) -> Any:
    arguments = ARGUMENTS[kind]
    with jax.enable_x64(np.dtype(dtype) == np.float64):
        batches = _problem.batches(dtype)
        alone = _problem.make(arguments, axis=False)
        grads = options.get("value_and_grad", jax.value_and_grad)
        expected = _problem.one_device(alone, _problem.params(dtype), batches, grads)
        tx = _problem.make(arguments, axis=axis)
        step = make_step(tx, **options)
        found = _problem.run(step, tx, _problem.params(dtype), batches)
        assert_same(found, expected, dtype)
        if hasattr(step.compiled, "_cache_size"):  # not of pmap
            assert step.compiled._cache_size() == 1
        return found


def test_every_argument_of_the_factory_is_in_the_table() -> None:
    covered = {name for arguments in ARGUMENTS.values() for name in arguments}
    left = set(inspect.signature(ro.rmsprop).parameters) - covered
    assert left == {"accumulate_rows"}  # test_tables_by_rows_that_are_accumulated


@for_each
@pytest.mark.parametrize(
    "dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)]
)
def test_data_parallel(kind: str, devices: int, dtype: str) -> None:
    def make_step(tx: Any, **options: Any) -> Any:
        return parallel.data_parallel(loss_fn, tx, mesh(devices), **options)

    _compare(make_step, kind, dtype, axis=True)


@for_each
@pytest.mark.parametrize(
    "dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)]
)
def test_sharded_data_parallel(kind: str, devices: int, dtype: str) -> None:
    def make_step(tx: Any, **options: Any) -> Any:
        return parallel.sharded_data_parallel(loss_fn, tx, mesh(devices), **options)

    _compare(make_step, kind, dtype, axis=True)


@for_each
def test_pmap(kind: str, devices: int) -> None:
    def make_step(tx: Any, **options: Any) -> Any:
        some = jax.devices()[:devices]
        return parallel.pmap_data_parallel(loss_fn, tx, devices=some, **options)

    _compare(make_step, kind, "float64", axis=False)


@_each(AT_ONCE)
@pytest.mark.parametrize("micro_steps", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_tables_by_rows(kind: str, devices: int, micro_steps: int) -> None:
    """With a row that is not touched left alone, as on one device."""

    def make_step(tx: Any, **options: Any) -> Any:
        return parallel.data_parallel(
            loss_fn, tx, mesh(devices), micro_steps=micro_steps, **options
        )

    _compare(make_step, kind, "float64", axis=True, value_and_grad=by_rows)


@pytest.mark.slow
@pytest.mark.parametrize("make", ["data_parallel", "pmap_data_parallel"])
def test_tables_by_rows_that_are_accumulated(make: str) -> None:
    arguments = {
        "gradient_accumulation_steps": 2,
        "accumulate_rows": {"table": 2 * 2 * _problem.BATCH},
        "momentum": 0.9,
        "use_ema": True,
    }
    with jax.enable_x64(True):
        tx = ro.rmsprop(0.05, **arguments)
        batches = _problem.batches("float64")
        expected = _problem.one_device(tx, _problem.params("float64"), batches, by_rows)
        where = {"mesh": mesh(8)} if make == "data_parallel" else {}
        options = {**where, "value_and_grad": by_rows}
        step = getattr(parallel, make)(loss_fn, tx, **options)
        found = _problem.run(step, tx, _problem.params("float64"), batches)
        assert_same(found, expected, "float64")


@pytest.mark.parametrize(
    "make",
    ["data_parallel", pytest.param("sharded_data_parallel", marks=pytest.mark.slow)],
)
def test_micro_steps_change_nothing(make: str) -> None:
    def make_step(tx: Any, **options: Any) -> Any:
        step = getattr(parallel, make)
        return step(loss_fn, tx, mesh(4), micro_steps=3, **options)

    _compare(make_step, "momentum", "float64", axis=True)


@pytest.mark.parametrize(
    "kind", ["momentum", pytest.param("accumulation", marks=pytest.mark.slow)]
)
def test_a_sharded_state_under_jit(kind: str) -> None:
    """No step of ours: `state_sharding`, and what XLA makes of it."""
    tx = _problem.make(ARGUMENTS[kind], axis=False)
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
