"""Norms inside of `shard_map` and `pmap`: each value counted once, on all devices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
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


CLIPS = {"each": clip_by_norm, "global": clip_by_global_norm}


def _clip(bound: Any, grads: Any, clips: Any = CLIPS, **arguments: Any) -> Any:
    """The gradients by all clips, in one program: most of a test is compilation."""

    def clipped(tx: optax.GradientTransformation) -> Any:
        return tx.update(grads, tx.init(grads))[0]

    return {name: clipped(clip(bound, **arguments)) for name, clip in clips.items()}


def _inside(
    mesh: Mesh,
    specs: Any = SPECS,
    check_vma: bool = True,
    axis_name: Any = "data",
    **arguments: Any,
) -> Any:
    """`_clip` in `shard_map`, a function of the bound and the gradients."""
    made = dict.fromkeys(arguments.get("clips", CLIPS), specs)
    clip = partial(_clip, axis_name=axis_name, **arguments)
    return jax.jit(
        jax.shard_map(
            clip, mesh=mesh, in_specs=(P(), specs), out_specs=made, check_vma=check_vma
        )
    )


def _outside(tx: Any, grads: Any) -> Any:
    return jax.jit(lambda g: tx.update(g, tx.init(g))[0])(grads)


_on_one_device = jax.jit(_clip)


def _assert_close(ours: Any, expected: Any, rtol: float = 2e-6) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True
    ):
        message = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=rtol, err_msg=message)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_sharded_and_whole_leaves_are_counted_once(devices: int) -> None:
    clip = _inside(_mesh(devices))
    for scale in (1.0, 1e-30, 1e30):
        grads, bound = _grads(scale=scale), 0.3 * scale
        _assert_close(clip(bound, grads), _on_one_device(bound, grads), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
def test_other_dtypes(dtype: Any) -> None:
    grads = _grads(dtype)
    clipped = _inside(_mesh(4))(0.3, grads)
    _assert_close(clipped, _on_one_device(0.3, grads), rtol=1e-2)


def test_where_types_do_not_tell_one_says_so() -> None:
    grads = _grads()
    mask = {"rows": True, "columns": True, "whole": False, "none": True}
    expected = _on_one_device(0.3, grads)
    for sharded in (mask, lambda _: mask):
        told = _inside(_mesh(4), check_vma=False, sharded=sharded)
        _assert_close(told(0.3, grads), expected)
    for name, clip in CLIPS.items():
        silent = _inside(_mesh(4), check_vma=False, clips={name: clip})
        with pytest.raises(ValueError, match=r"'data'.*check_vma=False.*sharded=True"):
            silent(0.3, grads)


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
    clipped = _inside(mesh, specs, axis_name=("data", "model"))(0.3, grads)
    _assert_close(clipped, _on_one_device(0.3, grads))


def test_a_gradient_that_is_not_finite_is_so_on_all_devices() -> None:
    grads = _grads()
    grads["rows"] = grads["rows"].at[7, 2].set(jnp.nan)
    clipped = _inside(_mesh(8))(0.3, grads)["global"]
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


def test_the_factory_on_sharded_parameters_is_one_device() -> None:
    kinds = [{"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"skip_nonfinite": True}]
    params = {k: v for k, v in _grads().items() if v is not None}
    specs = {name: SPECS[name] for name in params}

    def train(params: Any, **axis: Any) -> list[Any]:
        made = []
        for kind in kinds:
            tx = ro.rmsprop(0.1, momentum=0.9, **kind, **axis)
            trained, state = params, tx.init(params)
            for _ in range(3):
                grads = jax.tree.map(jnp.cos, trained)
                updates, state = tx.update(grads, state, trained)
                trained = jax.tree.map(jnp.add, trained, updates)
            made.append(trained)
        return made

    inside = jax.shard_map(
        partial(train, axis_name="data"),
        mesh=_mesh(8),
        in_specs=(specs,),
        out_specs=[specs] * len(kinds),
    )
    _assert_close(jax.jit(inside)(params), jax.jit(train)(params), rtol=1e-5)
