"""Norms inside of `shard_map` and `pmap`: each value counted once, on all devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import rmsprop_optax as ro
from rmsprop_optax import clip_by_global_norm, clip_by_norm, sparse

SPECS = {"rows": P("data"), "columns": P(None, "data"), "whole": P(), "none": P()}


def _mesh(*sizes: int, names: tuple[str, ...] = ("data",)) -> Mesh:
    devices = np.array(jax.devices()[: int(np.prod(sizes))])
    return Mesh(devices.reshape(sizes), names)


def _grads(dtype: Any = jnp.float32, scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"rows": (8, 3), "columns": (2, 16), "whole": (5,)}
    made: dict[str, Any] = {
        name: jnp.asarray(scale * rng.normal(size=shape), dtype)
        for name, shape in shapes.items()
    }
    return {**made, "none": None}


def _inside(tx: Any, mesh: Mesh, specs: Any = SPECS, **options: Any) -> Any:
    def clip(grads: Any) -> Any:
        return tx.update(grads, tx.init(grads))[0]

    return jax.jit(
        jax.shard_map(clip, mesh=mesh, in_specs=(specs,), out_specs=specs, **options)
    )


def _outside(tx: Any, grads: Any) -> Any:
    return jax.jit(lambda g: tx.update(g, tx.init(g))[0])(grads)


def _assert_close(ours: Any, expected: Any, rtol: float = 2e-6) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol)


@pytest.mark.parametrize("clip", [clip_by_norm, clip_by_global_norm])
@pytest.mark.parametrize(
    ("devices", "scale"), [(1, 1.0), (2, 1.0), (4, 1e-30), (8, 1e30)]
)
def test_sharded_and_whole_leaves_are_counted_once(
    clip: Any, devices: int, scale: float
) -> None:
    grads = _grads(scale=scale)
    bound = 0.3 * scale
    clipped = _inside(clip(bound, axis_name="data"), _mesh(devices))(grads)
    _assert_close(clipped, _outside(clip(bound), grads), rtol=1e-5)


@pytest.mark.parametrize("clip", [clip_by_norm, clip_by_global_norm])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
def test_other_dtypes(clip: Any, dtype: Any) -> None:
    grads = _grads(dtype)
    clipped = _inside(clip(0.3, axis_name="data"), _mesh(4))(grads)
    _assert_close(clipped, _outside(clip(0.3), grads), rtol=1e-2)


@pytest.mark.parametrize("clip", [clip_by_norm, clip_by_global_norm])
def test_where_types_do_not_tell_one_says_so(clip: Any) -> None:
    grads = _grads()
    mask = {"rows": True, "columns": True, "whole": False, "none": True}
    expected = _outside(clip(0.3), grads)
    for sharded in (mask, lambda _: mask):
        tx = clip(0.3, axis_name="data", sharded=sharded)
        _assert_close(_inside(tx, _mesh(4), check_vma=False)(grads), expected)
    silent = clip(0.3, axis_name="data")
    with pytest.raises(ValueError, match=r"'data'.*check_vma=False.*sharded=True"):
        _inside(silent, _mesh(4), check_vma=False)(grads)


def test_inside_pmap() -> None:
    table = jnp.arange(1.0, 17.0).reshape(8, 2)

    def clip(tx: Any) -> Any:
        return jax.pmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="i")(table)

    together = clip(clip_by_global_norm(1.0, axis_name="i", sharded=True))
    np.testing.assert_allclose(together, table / jnp.linalg.norm(table), rtol=1e-6)
    alone = clip(clip_by_global_norm(1.0, axis_name="i", sharded=False))
    rows = jnp.linalg.norm(table, axis=1, keepdims=True)
    np.testing.assert_allclose(alone, table / rows, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`jax.pmap`.*sharded"):
        clip(clip_by_global_norm(1.0, axis_name="i"))


def test_over_two_axes_each_leaf_along_its_own() -> None:
    mesh = _mesh(2, 4, names=("data", "model"))
    specs = {"rows": P(("data", "model")), "columns": P("data", "model")}
    specs |= {"whole": P(), "none": P()}
    grads = _grads()
    tx = clip_by_global_norm(0.3, axis_name=("data", "model"))
    clipped = _inside(tx, mesh, specs)(grads)
    _assert_close(clipped, _outside(clip_by_global_norm(0.3), grads))


def test_a_gradient_that_is_not_finite_is_so_on_all_devices() -> None:
    grads = _grads()
    grads["rows"] = grads["rows"].at[7, 2].set(jnp.nan)
    clipped = _inside(clip_by_global_norm(0.3, axis_name="data"), _mesh(8))(grads)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(clipped))


def test_rows_of_a_table_that_is_sharded() -> None:
    """Each device has its own rows of its own part of the table."""
    ids = jnp.array([[0, 1, 1], [3, 3, 3], [2, 0, 1], [0, 0, 0]])
    values = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 2)), jnp.float32)
    heights = 5 * jnp.arange(4)[:, None]
    whole = sparse.RowSlices((ids + heights).ravel(), values.reshape(-1, 2), (20, 2))
    bias = jnp.array([3.0, 4.0])
    tx = sparse.lazy(clip_by_global_norm(1.0, axis_name="data"))

    def clip(ids: Any, values: Any, bias: Any) -> Any:
        grads = {"t": sparse.RowSlices(ids[0], values[0], (5, 2)), "b": bias}
        clipped, _ = tx.update(grads, tx.init(grads))
        return clipped["t"].to_dense(), clipped["b"]

    specs = (P("data"), P("data"), P())
    table, clipped = jax.jit(
        jax.shard_map(clip, mesh=_mesh(4), in_specs=specs, out_specs=specs[1:])
    )(ids, values, bias)
    expected = _outside(sparse.lazy(clip_by_global_norm(1.0)), {"t": whole, "b": bias})
    np.testing.assert_allclose(table, expected["t"].to_dense(), rtol=1e-6)
    np.testing.assert_allclose(clipped, expected["b"], rtol=1e-6)


def test_rows_that_were_gathered_are_counted_once() -> None:
    ids = jnp.array([[0, 1, 1], [4, 1, 2], [2, 0, 1], [0, 0, 0]])
    values = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 2)), jnp.float32)
    whole = sparse.RowSlices(ids.ravel(), values.reshape(-1, 2), (6, 2))
    tx = sparse.lazy(clip_by_global_norm(1.0, axis_name="data"))

    def clip(ids: Any, values: Any) -> Any:
        def gather(x: Any) -> Any:
            return jax.lax.all_gather(x[0], "data", tiled=True, to="invarying")

        rows = sparse.RowSlices(gather(ids), gather(values), (6, 2))
        return tx.update(rows, tx.init(rows))[0].to_dense()

    spec = P("data")
    clipped = jax.jit(
        jax.shard_map(clip, mesh=_mesh(4), in_specs=(spec, spec), out_specs=P())
    )(ids, values)
    expected = _outside(sparse.lazy(clip_by_global_norm(1.0)), whole)
    np.testing.assert_allclose(clipped, expected.to_dense(), rtol=1e-6)


def test_derivatives_go_through_the_norm() -> None:
    tx = clip_by_global_norm(0.3, axis_name="data")

    def outcome(tx: Any) -> Any:
        def clip(g: Any) -> Any:
            return tx.update(g, tx.init(g))[0]

        return clip

    g = jnp.arange(1.0, 9.0)
    inside = jax.shard_map(
        outcome(tx), mesh=_mesh(4), in_specs=P("data"), out_specs=P("data")
    )
    alone = outcome(clip_by_global_norm(0.3))
    weights = jnp.cos(g)
    ours = jax.jit(jax.grad(lambda g: jnp.sum(inside(g) * weights)))(g)
    expected = jax.grad(lambda g: jnp.sum(alone(g) * weights))(g)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("clip", [clip_by_norm, clip_by_global_norm])
@pytest.mark.parametrize("bad", ["", (), 3, ("data", 1)])
def test_a_name_that_is_none(clip: Any, bad: Any) -> None:
    with pytest.raises(TypeError, match=r"`axis_name` must be the name of a mesh axis"):
        clip(1.0, axis_name=bad)


def test_sharded_means_nothing_without_an_axis() -> None:
    with pytest.raises(ValueError, match=r"`sharded`=True has no effect"):
        clip_by_global_norm(1.0, sharded=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: clip_by_norm(1.0, axis_name="rows"),
        lambda: clip_by_global_norm(1.0, axis_name=("data", "rows")),
        lambda: ro.skip_nonfinite(ro.scale_by_rms(), axis_name="rows"),
        lambda: ro.dynamic_loss_scale(ro.scale_by_rms(), axis_name="rows"),
        lambda: ro.rmsprop(clipnorm=1.0, axis_name="rows"),
        lambda: ro.rmsprop(global_clipnorm=1.0, axis_name="rows"),
        lambda: ro.rmsprop(skip_nonfinite=True, axis_name="rows"),
    ],
)
def test_an_axis_that_is_not_there_is_named(make: Any) -> None:
    def update(g: Any) -> Any:
        tx = make()
        return tx.update(g, tx.init(g))[0]

    spec = P("data")
    inside = jax.shard_map(update, mesh=_mesh(4), in_specs=spec, out_specs=spec)
    with pytest.raises(ValueError, match=r"no axis 'rows' here, but \['data'\]"):
        jax.jit(inside)(jnp.ones(8))
    with pytest.raises(ValueError, match=r"no axis '\w+' here, but none at all.*jit"):
        jax.jit(update)(jnp.ones(8))


def test_the_factory_has_no_use_for_an_axis_alone() -> None:
    with pytest.raises(ValueError, match=r"`axis_name`='data' has no effect without"):
        ro.rmsprop(axis_name="data")


@pytest.mark.parametrize(
    "arguments", [{"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"skip_nonfinite": True}]
)
def test_the_factory_on_sharded_parameters_is_one_device(
    arguments: dict[str, Any],
) -> None:
    arguments = {"learning_rate": 0.1, "momentum": 0.9, **arguments}
    params = {k: v for k, v in _grads().items() if v is not None}
    specs = {name: SPECS[name] for name in params}
    tx = ro.rmsprop(**arguments, axis_name="data")
    alone = ro.rmsprop(**arguments)

    def train(tx: Any) -> Any:
        def run(params: Any) -> Any:
            state = tx.init(params)
            for _ in range(3):
                grads = jax.tree.map(jnp.cos, params)
                updates, state = tx.update(grads, state, params)
                params = jax.tree.map(jnp.add, params, updates)
            return params

        return run

    inside = jax.shard_map(train(tx), mesh=_mesh(8), in_specs=(specs,), out_specs=specs)
    _assert_close(jax.jit(inside)(params), jax.jit(train(alone))(params), rtol=1e-5)
