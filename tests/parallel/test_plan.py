"""A step planned from shapes alone, and scattered over an axis of several names."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import rmsprop_optax as ro
from rmsprop_optax import parallel

STEPS = {
    "whole": parallel.data_parallel,
    "sharded": parallel.sharded_data_parallel,
}


def loss_fn(params: Any, batch: jax.Array) -> jax.Array:
    return jnp.mean((jnp.tanh(batch @ params["w"]) + params["b"]) ** 2)


def arguments(tx: Any) -> Any:
    params = {"w": jnp.linspace(-1, 1, 256).reshape(16, 16), "b": jnp.ones(3).sum()}
    batch = jnp.cos(jnp.arange(16 * 16.0)).reshape(16, 16)
    return params, tx.init(params), batch


@pytest.mark.parametrize("kind", STEPS)
def test_a_program_from_shapes_is_that_from_arrays(kind: str) -> None:
    tx = ro.rmsprop(
        0.1, momentum=0.9, moment_storage=ro.MomentStorage("int8", min_size=0)
    )
    mesh = jax.make_mesh((8,), ("data",))
    arrays = arguments(tx)
    shapes = jax.eval_shape(lambda: arrays)
    texts = [
        STEPS[kind](loss_fn, tx, mesh).lower(*given).as_text()
        for given in (arrays, shapes)
    ]
    assert texts[0] == texts[1]
    memory = STEPS[kind](loss_fn, tx, mesh).lower(*shapes).compile().memory_analysis()
    assert memory is not None


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_one_name_after_the_other_gives_the_same_parts(axis_type: Any) -> None:
    tx = optax.adam(0.1)
    params, state, batch = arguments(tx)
    one = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    two = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    expected = parallel.sharded_data_parallel(loss_fn, tx, one)(params, state, batch)
    params, state, batch = arguments(tx)
    step = parallel.sharded_data_parallel(loss_fn, tx, two, ("x", "y"))
    found = step(params, state, batch)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    shards = [x.data.shape for x in found[1][0].mu["w"].addressable_shards]
    assert shards == [(2, 16)] * 8
