"""Which part of an optimizer state lies on which device."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rmsprop_optax._foundation._axes import axis_size, names_of
from rmsprop_optax._foundation._places import Keys, parameters_by_keys, place_of
from rmsprop_optax._foundation._row_slices import RowSlices
from rmsprop_optax._foundation._types import AxisName, PyTree


def state_sharding(
    tx: optax.GradientTransformation,
    params: PyTree,
    mesh: Mesh,
    axis_name: AxisName = "data",
) -> PyTree:
    """A sharding for every leaf of a state, so that a device holds about 1/n of it.

    What belongs to a parameter (a moment, an average, a sum of gradients, codes and their
    scales) is sharded as that parameter is, and where this leaves ``axis_name`` unused,
    over that axis too: along the first dimension that it divides. What does not divide,
    counters and rows that wait for an accumulation stay whole on every device.

    With it, a plain step under `jax.jit` is ZeRO-1: XLA has each device update its part
    of the state, and gathers what the parameters need.

    Args:
      tx: The transformation, any of Optax's or of this library's.
      params: The parameters: arrays, or shapes and dtypes (`jax.eval_shape`), which are
        then whole on every device unless they say otherwise.
      mesh: The devices.
      axis_name: The axis (or axes) to split over.

    Returns:
      A tree of `jax.NamedSharding` like ``tx.init(params)``: for the ``out_shardings``
      of ``jax.jit(tx.init)``, for `jax.device_put`, for restoring a checkpoint.

    Raises:
      ValueError: For an axis that the mesh does not have.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from rmsprop_optax import parallel, rmsprop
      >>> mesh = jax.make_mesh((8,), ("data",))
      >>> params = {"kernel": jnp.ones((64, 16)), "bias": jnp.ones(3)}
      >>> tx = rmsprop(momentum=0.9)
      >>> shardings = parallel.state_sharding(tx, params, mesh)
      >>> opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
      >>> parallel.bytes_per_device(tx.init(params))
      8224
      >>> parallel.bytes_per_device(opt_state)
      1056

    References:
      Rajbhandari et al., [ZeRO: Memory Optimizations Toward Training Trillion Parameter
      Models](https://arxiv.org/abs/1910.02054), 2020.
    """
    axis_size(mesh, axis_name)
    known = parameters_by_keys(params)

    def shard(path: Keys, leaf: Any) -> Any:
        if isinstance(leaf, RowSlices):
            whole = NamedSharding(mesh, PartitionSpec())
            return jax.tree.map(lambda _: whole, leaf)
        p = parameter_of(path, leaf, known)
        spec = _spec_on(mesh, p) if p is not None else ()
        return NamedSharding(mesh, _split(leaf.shape, p, spec, mesh, axis_name))

    state = jax.eval_shape(tx.init, params)
    return jax.tree_util.tree_map_with_path(shard, state, is_leaf=_is_rows)


def _is_rows(node: Any) -> bool:
    return isinstance(node, RowSlices)


def parameter_of(path: Keys, leaf: Any, known: Mapping[Keys, Any]) -> Any:
    """The parameter that a leaf belongs to; None: to none, or it is a scalar."""
    place = place_of(path, known)
    # Parameters that are one array have no path: nothing but its dimensions is like it.
    p = place.param if place else known.get(())
    if p is None or not p.shape or not leaf.shape:
        return None
    return p if place or len(leaf.shape) == len(p.shape) else None


def _spec_on(mesh: Mesh, p: Any) -> tuple[Any, ...]:
    """How a parameter is sharded over this mesh; () where it is not."""
    sharding = getattr(p, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.shape != mesh.shape:
        return ()
    return tuple(sharding.spec)


def _split(
    shape: tuple[int, ...], p: Any, spec: tuple[Any, ...], mesh: Mesh, axis: AxisName
) -> PartitionSpec:
    """The parameter's spec where it fits this shape, and ``axis`` in the first gap."""
    dims: list[Any] = [None] * len(shape)
    if p is not None and len(p.shape) == len(shape):
        for i, part in enumerate(spec):
            dims[i] = part if part and not shape[i] % _size(mesh, part) else None
    used = {name for part in dims if part for name in names_of(part)}
    if used.isdisjoint(names_of(axis)):
        free = first_split(shape, _size(mesh, axis), taken=dims)
        if free is not None:
            dims[free] = axis
    return trimmed(dims)


def trimmed(dims: list[Any]) -> PartitionSpec:
    """Without the Nones at its end, as XLA's outputs have it: one program, not two."""
    while dims and dims[-1] is None:
        dims = dims[:-1]
    return PartitionSpec(*dims)


def first_split(
    shape: tuple[int, ...], parts: int, taken: list[Any] | None = None
) -> int | None:
    """The first dimension that can be cut into equal parts, and is not cut already."""
    for i, size in enumerate(shape):
        divides = parts > 1 and size > 0 and size % parts == 0
        if divides and (taken is None or taken[i] is None):
            return i
    return None


def _size(mesh: Mesh, axis: AxisName) -> int:
    return math.prod(mesh.shape[name] for name in names_of(axis))
