"""Device placement: moves uncommitted arrays, refuses those committed elsewhere."""

import math
from itertools import zip_longest
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from rmsprop_optax._foundation._alignment import paths_apart
from rmsprop_optax._foundation._axes import names_of
from rmsprop_optax._foundation._trees import LeafPath, leaves_with_paths
from rmsprop_optax._foundation._types import AxisName, PyTree
from rmsprop_optax.parallel._state_sharding import trimmed


def place(tree: PyTree, shardings: PyTree, axis: AxisName, what: str) -> PyTree:
    """``tree`` with ``shardings``, which are one for all leaves or one for each.

    What has that sharding already, as after each step, is not touched; nor is a sharding
    over other axes of the same mesh than ``axis``.
    """
    leaves, structure = jax.tree.flatten(tree)
    if isinstance(shardings, NamedSharding):
        targets = [shardings] * len(leaves)
    else:
        if structure != jax.tree.structure(shardings):
            apart = paths_apart(tree, shardings) or "containers of other types"
            raise ValueError(
                f"{what} is not what `tx.init(params)` makes for this step ({apart}): it "
                "was made with another transformation, or for other parameters."
            )
        targets = jax.tree.leaves(shardings)
    for i, (leaf, target) in enumerate(zip(leaves, targets, strict=True)):
        if not _is_there(leaf, target, names_of(axis)):
            if isinstance(leaf, jax.Array):
                _check_may_move(LeafPath(tree, i, is_leaf=None), leaf, target, what)
            leaves[i] = put(leaf, target)
    return jax.tree.unflatten(structure, leaves)


def put(leaf: Any, sharding: NamedSharding) -> Any:
    """An array on these devices; a shape, for devices that may not be here, as one."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(sharding=sharding)
    return jax.device_put(leaf, sharding)


def unshared(tree: PyTree) -> PyTree:
    """``tree`` with copies of the arrays that it holds more than once.

    A step can't donate one array twice, and the fresh state of `optax.contrib.prodigy`
    holds the parameters themselves.
    """
    seen = set[int]()

    def own(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and id(leaf) in seen:
            return leaf.copy()
        seen.add(id(leaf))
        return leaf

    return jax.tree.map(own, tree)


def _is_there(leaf: Any, target: NamedSharding, names: tuple[str, ...]) -> bool:
    here = getattr(leaf, "sharding", None)
    # An array without a mesh is moved onto one, even if that is the same one device: else
    # the second step would have arguments of another kind, and compile again.
    if not isinstance(here, NamedSharding):
        return False
    if here == target or here.is_equivalent_to(target, leaf.ndim):
        return True
    if here.mesh != target.mesh:
        return False
    used = [
        part if part and not {*names_of(part)}.isdisjoint(names) else None
        for part in here.spec
    ]
    return trimmed(used) == target.spec


def _check_may_move(path: LeafPath, leaf: jax.Array, target: Any, what: str) -> None:
    here = leaf.sharding
    if not leaf.committed:
        return
    if here.device_set != target.device_set:
        raise ValueError(
            f"{what} '{path}' is on {_devices(here)}, the step runs on "
            f"{_devices(target)}: it was made for another mesh. Move it there yourself, "
            "with `jax.device_put(tree, jax.NamedSharding(mesh, jax.P()))`."
        )
    if not here.is_fully_replicated and not _only_splits(here, target):
        raise ValueError(
            f"{what} '{path}' is sharded as {getattr(here, 'spec', here)} over "
            f"{_devices(here)}, the step takes it as {target.spec}. Move it with "
            "`jax.device_put(tree, jax.NamedSharding(mesh, spec))`, or use the step "
            "that keeps it so: `parallel.sharded_data_parallel` for a sharded state."
        )


def check_divides(batch: PyTree, parts: int, into: str) -> None:
    """Raises unless the first axis of every array can be cut into equal parts."""
    for path, leaf in leaves_with_paths(batch):
        if leaf is None:
            continue
        shape = jnp.shape(leaf)
        if not shape or shape[0] % parts:
            raise ValueError(
                f"Batch '{path}' of shape {shape} can't be split into {into}: its first "
                f"axis must be a multiple of {parts}. Drop the rest of the last batch, "
                "or pad it, with a mask and a loss for `weighted=True`."
            )


def _only_splits(here: Any, target: NamedSharding) -> bool:
    """Whether each device keeps a part of what it has."""
    if not isinstance(here, NamedSharding) or here.mesh != target.mesh:
        return False
    parts = zip_longest(here.spec, target.spec)
    return all(
        not old or {*names_of(old)} <= {*names_of(new or ())} for old, new in parts
    )


def _devices(sharding: Any) -> str:
    ids = [str(i) for i in sorted(device.id for device in sharding.device_set)]
    listed = f"[{', '.join([*ids[:4], '...'] if len(ids) > 4 else ids)}]"
    if isinstance(sharding, NamedSharding):
        return f"the mesh {dict(sharding.mesh.shape)} of devices {listed}"
    return f"devices {listed}"


def bytes_per_device(tree: PyTree) -> int:
    """How many bytes of a tree each device holds; where they differ, the most.

    Args:
      tree: Arrays, or shapes with shardings
        (`jax.eval_shape`, ``jax.ShapeDtypeStruct(..., sharding=...)``). What has no
        sharding is counted whole.

    Returns:
      The sum over the leaves of one device's shard.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from rmsprop_optax import parallel
      >>> mesh = jax.make_mesh((8,), ("data",))
      >>> table = jnp.zeros((16, 4))
      >>> by_rows = jax.device_put(table, jax.NamedSharding(mesh, jax.P("data")))
      >>> parallel.bytes_per_device(table), parallel.bytes_per_device(by_rows)
      (256, 32)
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape, sharding = jnp.shape(leaf), getattr(leaf, "sharding", None)
        shard = shape if sharding is None else sharding.shard_shape(shape)
        total += math.prod(shard) * jnp.result_type(leaf).itemsize
    return total
