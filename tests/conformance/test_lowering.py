"""Training steps compile for GPU and TPU: JAX lowers them here, without the device.

`jax.export` refuses a custom call that is not known to be portable, such as a call of the
host, so an export without `disabled_checks` says that there is none.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

import rmsprop_optax as ro
from rmsprop_optax import parallel, sparse
from tests.conformance._table import EVERYTHING, INT8, TABLE, rows

PLATFORMS = ("cuda", "tpu")
# JAX lowers a call of the host for the device that it runs on alone.
LIVE = "scale_by_learning_rate, live"
DENSE = [row for row in rows(TABLE) if row.values != (LIVE,)]
IDS = jnp.array([3, 1, 3, 0])


def _params() -> Any:
    return {
        "kernel": jnp.ones((16, 8)),
        "bias": jnp.ones(8, jnp.bfloat16),
        "table": jnp.ones((64, 8)),
    }


def _loss(params: Any, ids: jax.Array) -> jax.Array:
    hidden = jnp.take(params["table"], ids, axis=0) @ params["kernel"].T
    return jnp.mean(hidden**2) + jnp.sum(params["bias"].astype(jnp.float32))


def _loss_by_rows(params: Any, ids: jax.Array) -> jax.Array:
    hidden = sparse.lookup(params["table"], ids) @ params["kernel"].T
    return jnp.mean(hidden**2) + jnp.sum(params["bias"].astype(jnp.float32))


def _ids(params: Any, ids: jax.Array) -> Any:
    return {"table": ids}


def _lower(tx: Any, by_rows: bool = False) -> None:
    """Exports a step with its gradients, and looks for wide numbers in it."""
    rows_grad = sparse.value_and_grad(_loss_by_rows, _ids)
    value_and_grad = rows_grad if by_rows else jax.value_and_grad(_loss)

    def step(params: Any, state: Any, ids: jax.Array) -> Any:
        loss, grads = value_and_grad(params, ids)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = _params()
    args = (params, jax.eval_shape(tx.init, params), IDS)
    exported = export.export(jax.jit(step), platforms=PLATFORMS)(*args)
    assert exported.platforms == PLATFORMS
    wide = {dtype for dtype in _dtypes(jax.make_jaxpr(step)(*args)) if _is_wide(dtype)}
    assert not wide


def _dtypes(jaxpr: Any) -> Iterator[Any]:
    """The dtype of every intermediate value, those of inner programs included."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        yield from (var.aval.dtype for var in equation.outvars)
        for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(leaf):
                yield from _dtypes(leaf)


def _is_program(leaf: Any) -> bool:
    return hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")


def _is_wide(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype in (jnp.float64, jnp.complex128)


@pytest.mark.parametrize("name", DENSE)
def test_dense(name: str) -> None:
    _lower(TABLE[name]())


EVERY_ROWS = EVERYTHING | {"accumulate_rows": {"table": 8}}
BY_ROWS = {
    "everything": lambda: ro.rmsprop(**EVERY_ROWS),
    "everything, int8": lambda: ro.rmsprop(**EVERY_ROWS, moment_storage=INT8),
    "bfloat16": lambda: ro.rmsprop(momentum=0.9, moment_storage="bfloat16"),
    "optax.adam": lambda: sparse.lazy(optax.adam(0.1)),
    "optax.adam, int8": lambda: sparse.lazy(ro.low_precision(optax.adam(0.1), INT8)),
    **{name: TABLE[name] for name in sorted(ro.dialects.__all__) if name in TABLE},
}


@pytest.mark.parametrize("name", list(BY_ROWS))
def test_by_rows(name: str) -> None:
    _lower(BY_ROWS[name](), by_rows=True)


@pytest.mark.parametrize("builder", ["data_parallel", "sharded_data_parallel"])
@pytest.mark.parametrize("by_rows", [False, True])
def test_parallel_steps(builder: str, by_rows: bool) -> None:
    mesh = jax.make_mesh((8,), ("data",))
    options, loss_fn, value_and_grad = EVERYTHING, _loss, jax.value_and_grad
    if by_rows:
        options = EVERY_ROWS
        loss_fn = _loss_by_rows
        value_and_grad = partial(sparse.value_and_grad, ids=_ids)
    tx = ro.rmsprop(**options, moment_storage=INT8)
    build = getattr(parallel, builder)
    step = build(loss_fn, tx, mesh, value_and_grad=value_and_grad)
    params, ids = _params(), jnp.zeros(16, jnp.int32)
    args = params, tx.init(params), ids
    assert step.lower(*args, lowering_platforms=PLATFORMS).as_text()
    with pytest.raises(TypeError, match=r"call it outside of `jax\.jit`"):
        jax.jit(lambda *args: step(*args))(*args)
