"""How an optimizer state is sharded over devices."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rmsprop_optax._foundation._axes import axis_size, named_sharding, names_of
from rmsprop_optax._foundation._checks import check_transformation
from rmsprop_optax._foundation._state_leaves import Owner, owners_of
from rmsprop_optax._foundation._trees import Keys, eval_shape, leaves_with_keys
from rmsprop_optax._foundation._types import AxisName, PyTree


def state_sharding(
    tx: optax.GradientTransformation,
    params: PyTree,
    mesh: Mesh,
    axis_name: AxisName = "data",
) -> PyTree:
    """A sharding for every leaf of a state, so that a device holds about 1/n of it.

    What belongs to a parameter (a moment, an average, a sum of gradients, codes and their
    scales) is sharded as that parameter is, and if that leaves ``axis_name`` unused, over
    that axis too: along the first dimension that it divides. All else is whole on every
    device: counts, what does not divide, and sums of rows.

    With it a plain step under `jax.jit` is ZeRO-1: each device updates its part of the
    state, and XLA gathers the parameters.

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
      8216
      >>> parallel.bytes_per_device(opt_state)
      1048

    References:
      Rajbhandari et al., [ZeRO: Memory Optimizations Toward Training Trillion Parameter
      Models](https://arxiv.org/abs/1910.02054), 2020.
    """
    check_transformation("tx", tx)
    axis_size(mesh, axis_name)
    return shardings_like(tx, params, mesh, axis_name)


def shardings_like(
    tx: optax.GradientTransformation,
    params: PyTree,
    mesh: Mesh,
    axis: AxisName | None,
    state: PyTree = None,
) -> PyTree:
    """The state sharded as its parameters are, and over ``axis`` too if there is one.

    ``state`` is one that is there. On automatic axes `tx.init` has cut it into as many
    blocks as its arrays have shards, of which their types tell nothing.
    """
    known = dict(leaves_with_keys(params, is_leaf=None))
    shapes = eval_shape(tx.init, params)
    if jax.tree.structure(state) == jax.tree.structure(shapes):
        shapes = jax.tree.map(
            lambda found, shape: found if hasattr(found, "shape") else shape,
            state,
            shapes,
        )
    leaves, structure = jax.tree.flatten(shapes)
    owners = [
        owner.keys if owner is not None and _is_cut(owner, leaf, known) else None
        for owner, leaf in zip(owners_of(tx.init, params, shapes), leaves, strict=True)
    ]
    # A cut that fits all moments of a parameter, or none: codes stay beside their scales.
    moments: dict[Keys, list[tuple[int, ...]]] = defaultdict(list)
    for owner, leaf in zip(owners, leaves, strict=True):
        if owner is not None:
            moments[owner].append(leaf.shape)

    def shard(owner: Keys | None, leaf: Any) -> NamedSharding:
        if owner is None:
            return NamedSharding(mesh, PartitionSpec())
        dims = _split(moments[owner], spec_on(mesh, known[owner]), mesh, axis)
        # A dimension of size 1 is one number for all: each device has it.
        dims = [dims[i] if size > 1 else None for i, size in enumerate(leaf.shape)]
        return NamedSharding(mesh, trimmed(dims))

    return structure.unflatten(map(shard, owners, leaves))


def _is_cut(owner: Owner, leaf: Any, known: dict[Keys, Any]) -> bool:
    """Whether a state leaf has the dimensions of its parameter."""
    shape = known[owner.keys].shape
    if not shape or len(shape) != len(leaf.shape):
        return False
    # Sums of rows have another number of rows.
    return owner.part.holds not in ("sum", "full") or shape == leaf.shape


def spec_on(mesh: Mesh, p: Any) -> tuple[Any, ...]:
    """How a parameter is sharded over this mesh; () where it is not."""
    sharding = named_sharding(p)
    if sharding is None or sharding.mesh.shape != mesh.shape:
        return ()
    return tuple(sharding.spec)


def _split(
    shapes: list[tuple[int, ...]],
    spec: tuple[Any, ...],
    mesh: Mesh,
    axis: AxisName | None,
) -> list[Any]:
    """The parameter's spec where it fits these shapes, and ``axis`` in the first gap."""
    # What divides the greatest common divisor divides each size.
    sizes = list(zip(*shapes, strict=True))
    shape = tuple(math.gcd(*s) for s in sizes)
    dims: list[Any] = [None] * len(shape)
    for i, part in enumerate(spec):
        larger = math.gcd(*(size for size in sizes[i] if size > 1))
        dims[i] = part if part and not larger % axis_size(mesh, part) else None
    used = {name for part in dims if part for name in names_of(part)}
    if axis is not None and used.isdisjoint(names_of(axis)):
        left = [1 if part else size for part, size in zip(dims, shape, strict=True)]
        free = first_split(left, axis_size(mesh, axis))
        if free is not None:
            dims[free] = axis
    return dims


def trimmed(dims: list[Any]) -> PartitionSpec:
    """Without the Nones at its end, as XLA's outputs have it: one program, not two."""
    while dims and dims[-1] is None:
        dims = dims[:-1]
    return PartitionSpec(*dims)


def first_split(shape: Sequence[int], parts: int) -> int | None:
    """The first dimension that can be cut into equal parts."""
    cuts = (i for i, size in enumerate(shape) if size > 0 and size % parts == 0)
    return next(cuts, None) if parts > 1 else None
