"""A training step whose transformation sees whole arrays, sharded or not.

The loss and the means of the gradients run inside `jax.shard_map`, the transformation
outside of it, under `jax.jit`. There an array is whole to the program, whatever its
sharding, so every transformation computes what it computes on one device.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rmsprop_optax._foundation._axes import axis_size, names_of
from rmsprop_optax._foundation._checks import (
    check_flag,
    check_function,
    check_transformation,
    check_whole_number,
)
from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import AxisName, PyTree, Tracer
from rmsprop_optax.parallel._gradients import Outcome, local_outcome, mean_over_devices
from rmsprop_optax.parallel._placing import check_divides, place, put, unshared
from rmsprop_optax.parallel._state_sharding import first_split, shardings_like
from rmsprop_optax.wrappers._loss_scale import scale_loss


class TrainingStep:
    """A compiled training step.

    It is called with parameters, state, batch and perhaps a key, and keeps none of them.
    """

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        tx: optax.GradientTransformation,
        mesh: Mesh,
        axis: AxisName,
        *,
        has_aux: bool,
        micro_steps: int,
        value_and_grad: Callable[..., Any],
        shards_state: bool,
    ) -> None:
        self._count = axis_size(mesh, axis)
        check_transformation("tx", tx)
        check_function("loss_fn", loss_fn)
        check_function("value_and_grad", value_and_grad)
        check_flag("has_aux", has_aux)
        check_whole_number("micro_steps", micro_steps, least=1)
        self._tx, self._mesh, self._axis = tx, mesh, axis
        self._has_aux, self._micro_steps = has_aux, micro_steps
        self._shards_state = shards_state
        self._local = partial(
            local_outcome,
            loss_fn,
            axis=axis,
            has_aux=has_aux,
            micro_steps=micro_steps,
            value_and_grad=value_and_grad,
        )
        self._programs: dict[Any, Any] = {}

    def __call__(
        self, params: PyTree, opt_state: PyTree, batch: PyTree, key: Any = None
    ) -> tuple[Any, ...]:
        """One step: ``(params, opt_state, loss)``, and aux with ``has_aux``."""
        program, args = self._arrange(params, opt_state, batch, key)
        return program(*args)

    def lower(
        self,
        params: PyTree,
        opt_state: PyTree,
        batch: PyTree,
        key: Any = None,
        *,
        lowering_platforms: tuple[str, ...] | None = None,
    ) -> Any:
        """The program that would run: ``.compile()`` it to read it, or its memory.

        The arguments may be shapes (`jax.ShapeDtypeStruct`, ``jax.eval_shape(tx.init,
        params)``), and the mesh one of devices that are not here.
        ``lowering_platforms`` names others than this machine's, such as ``("tpu",)``.
        """
        program, args = self._arrange(params, opt_state, batch, key)
        return program.trace(*args).lower(lowering_platforms=lowering_platforms)

    def _arrange(
        self, params: PyTree, opt_state: PyTree, batch: PyTree, key: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """The program for these parameters, and its arguments on their devices."""
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, batch))):
            raise TypeError(
                "A training step compiles itself, and places its arguments on devices: "
                "call it outside of `jax.jit`, `scan` and other transformations."
            )
        micro_steps, into = self._micro_steps, f"{self._count} devices"
        if micro_steps > 1:
            into += f" with {micro_steps} micro-steps each"
        check_divides(batch, self._count * micro_steps, into)
        params, opt_state = unshared((params, opt_state))
        whole = NamedSharding(self._mesh, PartitionSpec())
        params = place(params, whole, self._axis, "Parameter")
        leaves, structure = jax.tree.flatten(params)
        kind = structure, tuple((p.shape, p.dtype) for p in leaves)
        known = self._programs.get(kind)
        shardings = known[1] if known else self._state_shardings(params)
        opt_state = place(opt_state, shardings, self._axis, "Optimizer state")
        if known is None:
            out = jax.tree.map(lambda x: x.sharding, (params, opt_state))
            known = self._programs[kind] = self._compile(*out), shardings
        split = NamedSharding(self._mesh, self._split)
        batch = jax.tree.map(lambda x: put(x, split), batch)
        key = place(key, whole, self._axis, "Key")
        return known[0], (params, opt_state, batch, key)

    def _state_shardings(self, params: PyTree) -> PyTree:
        axis = self._axis if self._shards_state else None
        return shardings_like(self._tx, params, self._mesh, axis)

    @property
    def _split(self) -> PartitionSpec:
        return PartitionSpec(self._axis)

    def _compile(self, params: PyTree, opt_state: PyTree) -> Any:
        """The jitted step; its arguments are the shardings of what it returns."""
        whole = NamedSharding(self._mesh, PartitionSpec())
        beside = (whole,) if self._has_aux else ()
        return jax.jit(
            self._train,
            donate_argnums=(0, 1),
            out_shardings=(params, opt_state, whole, *beside),
        )

    def _train(
        self, params: PyTree, opt_state: PyTree, batch: PyTree, key: Any
    ) -> tuple[Any, ...]:
        loss_scale = scale_loss(jnp.ones(()), opt_state)
        specs = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, (params, opt_state))
        whole = PartitionSpec()
        # Where axes are explicit, shardings are types, and transformations such as
        # Optax's do not say what theirs are. On automatic axes XLA decides.
        update = jax.sharding.auto_axes(
            self._update, axes=self._mesh.axis_names, out_sharding=(*specs, whole, whole)
        )
        with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
            outcomes = self._outcomes(params, loss_scale, batch, key)
            *new, aux = update(outcomes, opt_state, params)
        return (*new, aux) if self._has_aux else tuple(new)

    def _outcomes(
        self, params: PyTree, loss_scale: jax.Array, batch: PyTree, key: Any
    ) -> Outcome:
        """The gradients, loss and aux of every device, along a new first axis.

        It costs nothing. The means are computed apart from it: their `out_specs` need the
        trees of the gradients and of aux, which are known now.
        """
        whole, split = PartitionSpec(), self._split

        def local(*args: Any) -> Outcome:
            return jax.tree.map(lambda x: x[None], self._local(*args))

        return self._shard_map(
            local, in_specs=(whole, whole, split, whole), out_specs=split
        )(params, loss_scale, batch, key)

    def _update(
        self, outcomes: Outcome, opt_state: PyTree, params: PyTree
    ) -> tuple[PyTree, PyTree, jax.Array, PyTree]:
        """The new parameters and state, the mean loss and the mean aux."""
        grads, loss, aux = self._means(outcomes)
        parts = jax.tree.map(self._part, grads, params, is_leaf=is_leaf)
        updates, opt_state = self._tx.update(grads, opt_state, parts)
        return optax.apply_updates(parts, updates), opt_state, loss, aux

    def _means(self, outcomes: Outcome) -> Outcome:
        """The mean gradients, loss and aux; sharded gradients where the state is."""

        def means(outcomes: Outcome) -> Outcome:
            here = jax.tree.map(lambda x: x[0], outcomes)
            return jax.tree.map(self._mean, here, dims, is_leaf=is_leaf)

        dims = self._dims(outcomes)
        specs = jax.tree.map(self._spec, outcomes, dims, is_leaf=is_leaf)
        return self._shard_map(means, in_specs=self._split, out_specs=specs)(outcomes)

    def _shard_map(self, fn: Callable[..., Any], **specs: Any) -> Callable[..., Any]:
        return jax.shard_map(fn, axis_names={*names_of(self._axis)}, **specs)

    def _dims(self, stacked: Any) -> Any:
        """For each leaf the dimension that is reduce-scattered; -1: it stays whole."""

        def dim(leaf: Any) -> int:
            if is_leaf(leaf):
                return -1
            found = first_split(leaf.shape[1:], self._count)
            return -1 if found is None else found

        def stays(leaf: Any) -> int:
            del leaf
            return -1

        dims = jax.tree.map(stays, stacked, is_leaf=is_leaf)
        if not self._shards_state:
            return dims
        return dims._replace(grads=jax.tree.map(dim, stacked.grads, is_leaf=is_leaf))

    def _mean(self, leaf: Any, dim: int) -> Any:
        if leaf is None:
            return None
        return mean_over_devices(leaf, self._axis, None if dim < 0 else dim)

    def _spec(self, leaf: Any, dim: int) -> PartitionSpec:
        del leaf
        if dim < 0:
            return PartitionSpec()
        return PartitionSpec(*[None] * dim, self._axis)

    def _part(self, g: Any, p: Any) -> Any:
        """A parameter sharded as its gradient; no device sends anything for that."""
        if is_leaf(g) or not self._shards_state:
            return p
        dim = first_split(g.shape, self._count)
        if dim is None:
            return p
        return jax.lax.with_sharding_constraint(p, self._spec(g, dim))
