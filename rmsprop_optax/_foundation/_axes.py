"""Mesh axes: their names and sizes, what varies along them, and how that is checked."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rmsprop_optax._foundation._types import AxisName, Tracer


def check_axis_name(name: str, value: Any) -> None:
    """The name of an axis, or several in a tuple."""
    names = value if isinstance(value, tuple) else (value,)
    if not names or not all(isinstance(axis, str) and axis for axis in names):
        raise TypeError(
            f"`{name}` must be the name of a mesh axis, or a tuple of names, "
            f"got {value!r}."
        )


def names_of(axis_name: AxisName) -> tuple[str, ...]:
    """One name or several as several."""
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def bound_axes(axis_name: AxisName) -> tuple[str, ...]:
    """The axes by name, each of which is an axis of the `shard_map` around."""
    names = names_of(axis_name)
    for name in names:
        try:
            jax.lax.axis_size(name)
        except NameError as error:
            here = jax.sharding.get_abstract_mesh().manual_axes
            raise ValueError(
                f"There is no axis {name!r} here, but {list(here) or 'none at all'}: "
                "`axis_name` is for updates inside of `jax.shard_map` (or `jax.pmap`) "
                "over that axis. Under `jax.jit` with sharded arrays leave it out: "
                "there, all of an array is seen at once."
            ) from error
    return names


def check_types_have_axes(names: tuple[str, ...]) -> None:
    """That array types record the mesh axes that they vary over."""
    for name in names:
        if name not in _varying(jax.lax.axis_index(name)):
            raise ValueError(
                f"Whether a gradient is sharded over {name!r} can't be read off its type "
                "here (inside of `jax.pmap`, or `jax.shard_map` with `check_vma=False`): "
                "say so with `clip_by_global_norm(..., sharded=True)` (or a tree of "
                "booleans), in a chain before `rmsprop`. Where every device has the "
                "whole gradients, leave `axis_name` out."
            )


def varying_axes(leaf: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the axes along which a leaf differs from device to device, by its type."""
    return tuple(name for name in names if name in _varying(leaf))


def named_sharding(x: Any) -> jax.NamedSharding | None:
    """How an array, or a shape, is sharded over a mesh, as far as that is known."""
    tracer = isinstance(x, Tracer)
    sharding = jax.typeof(x).sharding if tracer else getattr(x, "sharding", None)
    if not isinstance(sharding, jax.NamedSharding) or sharding.mesh.empty:
        return None
    return sharding


def explicit_sharding(x: Any) -> jax.NamedSharding | None:
    """The sharding of an array where shardings are a part of types, else None."""
    sharding = jax.typeof(x).sharding
    return sharding if sharding.mesh.explicit_axes else None


def sharded_like(x: jax.Array, like: Any) -> jax.Array:
    """``x`` sharded as ``like`` is, where shardings are a part of types."""
    sharding = explicit_sharding(like)
    if sharding is None or jax.typeof(x).sharding == sharding:
        return x
    return jax.reshard(x, sharding)


def whole_rows(sharding: jax.NamedSharding | None) -> jax.NamedSharding | None:
    """The sharding of some rows of an array: every device has all of them."""
    if sharding is None:
        return None
    return jax.NamedSharding(sharding.mesh, jax.P(None, *sharding.spec[1:]))


def varying_seed(seed: jax.Array, x: Any) -> jax.Array:
    """``seed``, another one on each device along the axes that ``x`` differs over."""
    for name in sorted(_varying(x)):
        seed = seed * jnp.uint32(0x2C9277B5) + jax.lax.axis_index(name).astype(jnp.uint32)
    return seed


def _varying(x: Any) -> frozenset[Any]:
    return jax.typeof(x).manual_axis_type.varying


def check_mesh(mesh: Any) -> None:
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"`mesh` must be a jax.sharding.Mesh, got {mesh!r}: make one with "
            '`jax.make_mesh((jax.device_count(),), ("data",))`.'
        )


def axis_size(mesh: Mesh, axis_name: AxisName) -> int:
    """How many devices there are along the axis, or along several together."""
    check_mesh(mesh)
    check_axis_name("axis_name", axis_name)
    names = names_of(axis_name)
    for name in names:
        if name not in mesh.shape:
            raise ValueError(
                f"The mesh has no axis {name!r}: its axes are {dict(mesh.shape)}. "
                "Give one of them as `axis_name`."
            )
    return math.prod(mesh.shape[name] for name in names)
