"""A device holds its n-th of every state, and a parameter's own sharding is kept."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

import rmsprop_optax as ro
from rmsprop_optax import parallel
from tests.parallel._problem import mesh


def _params() -> Any:
    return {
        "table": jnp.ones((512, 32)),
        "layers": [(jnp.ones((32, 64)), {"bias": jnp.ones(64)})],
        "odd": jnp.ones((3, 5)),
        "scale": jnp.ones(()),
        "none": None,
    }


TRANSFORMATIONS = {
    "moments": lambda: ro.rmsprop(momentum=0.9, centered=True),
    "average": lambda: ro.rmsprop(use_ema=True),
    "accumulators": lambda: ro.rmsprop(
        gradient_accumulation_steps=4, momentum=0.9, skip_nonfinite=True
    ),
    "loss scale": lambda: ro.dynamic_loss_scale(ro.rmsprop(momentum=0.9)),
    "split complex": lambda: ro.split_complex(ro.scale_by_rms()),
    "another library's": lambda: optax.adamw(1e-3),
    "partition": lambda: optax.partition(
        {"a": ro.rmsprop(momentum=0.9), "b": optax.adam(1e-3)},
        {"table": "a", "layers": "b", "odd": "a", "scale": "b", "none": "a"},
    ),
}


@pytest.mark.parametrize("kind", TRANSFORMATIONS)
@pytest.mark.parametrize("count", [2, 8])
def test_a_device_holds_its_share(kind: str, count: int) -> None:
    tx, params = TRANSFORMATIONS[kind](), _params()
    shardings = parallel.state_sharding(tx, params, mesh(count))
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    whole = tx.init(params)
    assert jax.tree.structure(opt_state) == jax.tree.structure(whole)
    for a, b in zip(jax.tree.leaves(opt_state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    left = 0  # what can't be split: of odd shape, and counters
    for leaf in jax.tree.leaves(whole):
        left += leaf.nbytes if leaf.size < 64 else 0
    share = parallel.bytes_per_device(opt_state)
    assert share == (parallel.bytes_per_device(whole) - left) // count + left
    assert share < 1.01 * parallel.bytes_per_device(whole) / count + 200
    per_device = sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(opt_state)
    )
    assert share == per_device


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_step_keeps_the_shardings_without_out_shardings(kind: Any) -> None:
    eight = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    tx = ro.rmsprop(0.1, momentum=0.9, use_ema=True, global_clipnorm=1.0)
    params = jax.device_put({"w": jnp.ones((16, 3))}, jax.NamedSharding(eight, jax.P()))
    shardings = parallel.state_sharding(tx, params, eight)
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    if kind is AxisType.Explicit:
        # There shardings are types: gradients have to be split on purpose.
        grads = jax.device_put(params, jax.NamedSharding(eight, jax.P("data")))
        params = grads
    else:
        grads = params
    _, after = jax.jit(tx.update)(grads, opt_state, params)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(opt_state), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


def test_a_parameters_own_sharding_is_followed() -> None:
    both = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))

    def on(*spec: Any) -> Any:
        return jax.NamedSharding(both, jax.P(*spec))

    params = jax.device_put(
        {
            "columns": jnp.ones((8, 16)),
            "rows": jnp.ones((8, 16)),
            "both": jnp.ones((8, 16)),
            "narrow": jnp.ones((3, 16)),
        },
        {
            "columns": on(None, "model"),
            "rows": on("model", None),
            "both": on(("model", "data"), None),
            "narrow": on(None, "model"),
        },
    )
    tx = ro.rmsprop(momentum=0.9)
    nu = optax.tree.get(parallel.state_sharding(tx, params, both), "nu")
    assert {name: sharding.spec for name, sharding in nu.items()} == {
        "columns": jax.P("data", "model"),
        "rows": jax.P("model", "data"),
        "both": jax.P(("model", "data")),
        "narrow": jax.P(None, "model"),
    }


def test_codes_and_their_scales() -> None:
    both = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
    spread = jax.NamedSharding(both, jax.P(None, "model"))
    params = {
        "wide": jax.device_put(jnp.zeros((8, 64)), spread),
        "rows": jnp.zeros((8, 16)),
        "flat": jnp.zeros(64),
    }
    storage = ro.MomentStorage("int8", block_size=16, min_size=0)
    tx = ro.low_precision(ro.scale_by_rms(), storage)
    found = jax.tree.map(lambda x: x.spec, parallel.state_sharding(tx, params, both))
    assert found.inner_state.nu == {
        "wide": jax.P("data", "model"),
        "rows": jax.P("data"),
        "flat": jax.P("data"),
    }
    assert found.scales == (found.inner_state.nu,)
    assert found.seed == jax.P()


def test_a_count_for_each_row_leaves_the_columns_sharded() -> None:
    both = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
    columns = jax.NamedSharding(both, jax.P(None, "model"))
    params = {"w": jax.device_put(jnp.ones((8, 16)), columns), "b": jnp.ones((3, 16))}
    tx = ro.rmsprop(centered=True, bias_correction=True)
    shardings = parallel.state_sharding(tx, params, both)
    found = {
        name: jax.tree.map(lambda x: x.spec, optax.tree.get(shardings, name))
        for name in ("row_counts", "mu", "nu")
    }
    moment = {"w": jax.P("data", "model"), "b": jax.P()}
    counts = {"w": jax.P("data"), "b": jax.P()}
    assert found == {"row_counts": counts, "mu": moment, "nu": moment}


def test_parameters_that_are_one_array_and_names_that_contain_one_another() -> None:
    tx = ro.rmsprop(momentum=0.9)
    alone = parallel.state_sharding(tx, jnp.ones((3, 16)), mesh(8))
    assert optax.tree.get(alone, "nu").spec == jax.P(None, "data")
    both = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
    own = jax.NamedSharding(both, jax.P(None, "model"))
    params = {"w": jnp.ones((4, 8)), "in": {"w": jax.device_put(jnp.ones((4, 8)), own)}}
    nu = optax.tree.get(parallel.state_sharding(tx, params, both), "nu")
    assert nu["w"].spec == jax.P("data")
    assert nu["in"]["w"].spec == jax.P("data", "model")


def test_rows_that_wait_are_whole() -> None:
    rows = {"table": 16}
    tx = ro.rmsprop(gradient_accumulation_steps=2, accumulate_rows=rows)
    params = {"table": jnp.ones((64, 4))}
    shardings = parallel.state_sharding(tx, params, mesh(8))
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    waiting = optax.tree.get(opt_state, "acc_grads")
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(waiting))


def test_bytes_of_shapes_and_of_nothing() -> None:
    split = jax.NamedSharding(mesh(4), jax.P("data"))
    shape = jax.ShapeDtypeStruct((8, 2), jnp.bfloat16, sharding=split)
    assert parallel.bytes_per_device({"a": shape, "b": None}) == 8
    assert parallel.bytes_per_device(jax.ShapeDtypeStruct((8,), jnp.int8)) == 8
    assert parallel.bytes_per_device(()) == 0


def test_blocks_that_init_made_for_sharded_columns() -> None:
    """On automatic axes an array tells `init` its sharding, and a tracer does not."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    storage = ro.MomentStorage("int8", min_size=0, rounding="nearest")
    tx, batch = ro.rmsprop(0.1, moment_storage=storage), jnp.arange(64.0).reshape(8, 8)
    whole = jnp.linspace(-1.0, 1.0, 128).reshape(8, 16)
    columns = jax.device_put(whole, jax.NamedSharding(mesh, jax.P(None, "model")))

    def loss_fn(w: Any, x: Any) -> Any:
        return jnp.mean(jnp.square(x @ w / 64))

    params, state = columns, tx.init(columns)
    step = parallel.sharded_data_parallel(loss_fn, tx, mesh)
    for _ in range(3):
        params, state, _ = step(params, state, batch)
    assert state[0].scales[0].shape == (8, 2)
    expected, init = whole, tx.init(columns)
    for _ in range(3):
        grads = jax.grad(loss_fn)(expected, batch)
        updates, init = tx.update(grads, init, expected)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_allclose(params, expected, rtol=1e-5, atol=1e-6)
