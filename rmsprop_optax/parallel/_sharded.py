"""ZeRO-1, step by step: reduce-scatter gradients, update a shard, gather parameters."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rmsprop_optax._chain import Rmsprop
from rmsprop_optax._foundation._axes import axis_size, names_of
from rmsprop_optax._foundation._places import parameters_by_keys
from rmsprop_optax._foundation._row_slices import RowSlices
from rmsprop_optax._foundation._trees import is_leaf, leaves_with_paths, path_of
from rmsprop_optax._foundation._types import AxisName, PyTree
from rmsprop_optax.parallel._gradients import local_outcome
from rmsprop_optax.parallel._placing import place
from rmsprop_optax.parallel._state_sharding import first_split, parameter_of
from rmsprop_optax.parallel._step import TrainingStep, check_batch, check_loss


def sharded_data_parallel(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    axis_name: AxisName = "data",
    *,
    has_aux: bool = False,
    micro_steps: int = 1,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> TrainingStep:
    """A training step in which each device keeps, and updates, its part of the state.

    ZeRO-1. The gradients are reduce-scattered, so that each device has the mean of its
    own part of each; it updates that part of the parameters with its part of the state;
    then the parameters are gathered. As much is communicated as by
    [`data_parallel`][rmsprop_optax.parallel.data_parallel], the update costs 1/n, and so
    does the state, which lies as
    [`state_sharding`][rmsprop_optax.parallel.state_sharding] says.

    The transformation sees parts of the gradients, so what measures whole ones must know
    the axis: ``rmsprop(global_clipnorm=1.0, axis_name="data")``. Moments that are rounded
    at random (``moment_storage``) draw other numbers than on one device.

    Args:
      loss_fn: As of `data_parallel`.
      tx: The transformation.
      mesh: The devices.
      axis_name: The axis (or axes) that batch and state are split along.
      has_aux: As there.
      micro_steps: As there.
      value_and_grad: As there, for dense gradients.

    Returns:
      ``step(params, opt_state, batch, key=None)``, as there: parameters are whole on
      every device between steps, and the state, consumed as they are, is sharded. A state
      straight from ``tx.init`` is split at the first step;
      ``jax.jit(tx.init, out_shardings=state_sharding(...))`` never has it whole.

    Raises:
      ValueError: As there; for a transformation that measures whole gradients and does
        not name this axis; at the first trace, for gradients by rows.
      TypeError: As there.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from rmsprop_optax import parallel, rmsprop
      >>> mesh = jax.make_mesh((8,), ("data",))
      >>> tx = rmsprop(0.1, global_clipnorm=1.0, axis_name="data")
      >>> def loss_fn(params, batch):
      ...     return jnp.mean((batch - params) ** 2)
      >>> step = parallel.sharded_data_parallel(loss_fn, tx, mesh)
      >>> params = jnp.zeros(16)
      >>> opt_state = tx.init(params)
      >>> params, opt_state, loss = step(params, opt_state, jnp.ones((8, 16)))
      >>> print(params[:2], loss, parallel.bytes_per_device(opt_state))
      [0.31621763 0.31621763] 1.0 16
    """
    count = axis_size(mesh, axis_name)
    loss = check_loss(loss_fn, has_aux, micro_steps, value_and_grad)
    _check_measures(tx, axis_name)
    whole, split = PartitionSpec(), PartitionSpec(axis_name)
    everywhere, apart = NamedSharding(mesh, whole), NamedSharding(mesh, split)

    # Once for each tree of parameters, not at each step.
    @lru_cache(maxsize=1)
    def specs_of(shapes: _Shapes) -> PyTree:
        return _state_specs(tx, shapes.tree(), count, axis_name)

    @lru_cache(maxsize=1)
    def shardings_of(shapes: _Shapes) -> PyTree:
        put = partial(NamedSharding, mesh)
        return jax.tree.map(put, specs_of(shapes), is_leaf=_is_spec)

    def train(params: PyTree, opt_state: PyTree, batch: PyTree, key: Any) -> Any:
        dims = _split_dims(params, count)
        local = local_outcome(loss, params, opt_state, batch, key, axis_name)
        grads = _reduce_scatter(local.grads, dims, axis_name)
        shards = _own_part(params, dims, axis_name)
        updates, opt_state = tx.update(grads, opt_state, shards)
        params = _gather(optax.apply_updates(shards, updates), dims, axis_name)
        means = jax.lax.pmean((local.loss, local.aux), axis_name)
        return params, opt_state, *(means if has_aux else means[:1])

    def compiled(params: PyTree, opt_state: PyTree, batch: PyTree, key: Any) -> Any:
        state_specs = specs_of(_Shapes.of(params))
        beside = (whole,) if has_aux else ()
        return jax.shard_map(
            train,
            mesh=mesh,
            in_specs=(whole, state_specs, split, whole),
            out_specs=(whole, state_specs, whole, *beside),
            axis_names=set(names_of(axis_name)),
        )(params, opt_state, batch, key)

    def arrange(
        params: PyTree, opt_state: PyTree, batch: PyTree, key: Any
    ) -> tuple[Any, ...]:
        check_batch(batch, count, micro_steps)
        shardings = shardings_of(_Shapes.of(params))
        return (
            place(params, everywhere, axis_name, "Parameter"),
            place(opt_state, shardings, axis_name, "Optimizer state"),
            jax.device_put(batch, apart),
            place(key, everywhere, axis_name, "Key"),
        )

    return TrainingStep(jax.jit(compiled, donate_argnums=(0, 1)), arrange)


def _check_measures(tx: optax.GradientTransformation, axis_name: AxisName) -> None:
    """Of the factory's chain, and the dialects', it is known what sees whole leaves."""
    if not isinstance(tx, Rmsprop):
        return
    f = tx.formula
    told = f.axis_name is not None and set(names_of(axis_name)) <= {
        *names_of(f.axis_name)
    }
    measures = {
        "clipnorm": f.clipnorm is not None,
        "global_clipnorm": f.global_clipnorm is not None,
        "skip_nonfinite": f.skip_nonfinite,
    }
    blind = [name for name, is_on in measures.items() if is_on and not told]
    if blind:
        raise ValueError(
            f"`{blind[0]}` looks at whole gradients, and this step gives each device a "
            f"part of them: give the factory `axis_name={axis_name!r}` too, or use "
            "`parallel.data_parallel`, or a step under `jax.jit` with "
            "`parallel.state_sharding`, where nothing has to be said."
        )
    if f.cautious:
        raise ValueError(
            "`caution` looks at whole gradients, and this step gives each device a part "
            "of them: use `parallel.data_parallel`, or a step under `jax.jit` with "
            "`parallel.state_sharding`."
        )


def _split_dims(params: PyTree, count: int) -> PyTree:
    """For each parameter the dimension that is split, or -1 where none divides."""

    def dim(p: Any) -> int:
        found = first_split(p.shape, count)
        return -1 if found is None else found

    return jax.tree.map(dim, params)


class _Shapes(NamedTuple):
    """Parameters without their values: what a cache can be asked for."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], Any], ...]

    @classmethod
    def of(cls, params: PyTree) -> "_Shapes":
        leaves, structure = jax.tree.flatten(params)
        return cls(structure, tuple(map(_shape_and_dtype, leaves)))

    def tree(self) -> PyTree:
        leaves = [jax.ShapeDtypeStruct(*leaf) for leaf in self.leaves]
        return jax.tree.unflatten(self.structure, leaves)


def _shape_and_dtype(p: Any) -> tuple[tuple[int, ...], Any]:
    return (p.shape, p.dtype) if hasattr(p, "dtype") else ((), jnp.result_type(p))


def _is_spec(node: Any) -> bool:
    return isinstance(node, PartitionSpec)


def _state_specs(
    tx: optax.GradientTransformation, params: PyTree, count: int, axis: AxisName
) -> PyTree:
    """What belongs to a parameter is cut where that is; all else is whole."""
    known = parameters_by_keys(params)

    def spec(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        p = parameter_of(path, leaf, known)
        if p is None or (dim := first_split(p.shape, count)) is None:
            return PartitionSpec()
        _check_cut(path, leaf.shape, p.shape, dim, count)
        return PartitionSpec(*[None] * dim, axis)

    return jax.tree_util.tree_map_with_path(spec, jax.eval_shape(tx.init, params))


def _check_cut(
    path: tuple[Any, ...],
    shape: tuple[int, ...],
    of: tuple[int, ...],
    dim: int,
    count: int,
) -> None:
    """It has the parameter's dimensions, and no block reaches over a cut."""
    fits = len(shape) == len(of) and shape[:dim] == of[:dim]
    if fits and shape[dim] % count == 0 and of[dim] % shape[dim] == 0:
        return
    raise ValueError(
        f"Optimizer state '{path_of(path)}' of shape {shape} can't be cut into {count} "
        f"parts along dimension {dim}, as its parameter of shape {of} is: use a step "
        "under `jax.jit` with `parallel.state_sharding`, or, for codes in one byte, a "
        "block size that divides the part of each device."
    )


def _reduce_scatter(grads: PyTree, dims: PyTree, axis: AxisName) -> PyTree:
    """Of each gradient the mean over the devices, this device's part of it."""
    for path, g in leaves_with_paths(grads):
        if isinstance(g, RowSlices):
            raise ValueError(
                f"Gradient '{path}' comes by rows, which can't be scattered over the "
                "devices: use `parallel.data_parallel`, or shard the table itself by "
                "rows, and step under `jax.jit`."
            )
    count = jax.lax.axis_size(axis)

    def scatter(g: Any, dim: Any) -> Any:
        if g is None:
            return None
        if dim < 0:
            return jax.lax.pmean(g, axis)
        return jax.lax.psum_scatter(g, axis, scatter_dimension=dim, tiled=True) / count

    return jax.tree.map(scatter, grads, dims, is_leaf=is_leaf)


def _own_part(params: PyTree, dims: PyTree, axis: AxisName) -> PyTree:
    index, count = jax.lax.axis_index(axis), jax.lax.axis_size(axis)

    def part(p: jax.Array, dim: int) -> jax.Array:
        if dim < 0:
            return p
        size = p.shape[dim] // count
        return jax.lax.dynamic_slice_in_dim(p, index * size, size, dim)

    return jax.tree.map(part, params, dims)


def _gather(parts: PyTree, dims: PyTree, axis: AxisName) -> PyTree:
    def gather(p: jax.Array, dim: int) -> jax.Array:
        if dim < 0:
            return p
        return jax.lax.all_gather(p, axis, axis=dim, tiled=True, to="invarying")

    return jax.tree.map(gather, parts, dims)
