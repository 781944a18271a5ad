"""A training step whose transformation sees whole arrays, sharded or not.

The loss and the means of the gradients run inside `jax.shard_map`, the transformation
outside of it, under `jax.jit`. There an array is whole to the program, whatever its
sharding, so every transformation computes what it computes on one device.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
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
    check_has_effect,
    check_transformation,
    check_whole_number,
)
from rmsprop_optax._foundation._trees import Keys, is_leaf
from rmsprop_optax._foundation._types import AxisName, PyTree, Tracer
from rmsprop_optax.parallel._gradients import Outcome, local_outcome, mean_over_devices
from rmsprop_optax.parallel._loss_terms import (
    Aux,
    by_reduction,
    check_reduction,
    joined,
    loss_terms,
)
from rmsprop_optax.parallel._placing import check_divides, place, put, unshared
from rmsprop_optax.parallel._row_formats import (
    format_of,
    stored_by_columns,
    warn_of_copies,
)
from rmsprop_optax.parallel._state_sharding import first_split, shardings_like
from rmsprop_optax.transforms._loss_scale import divide_wide
from rmsprop_optax.wrappers._loss_scale import scale_loss
from rmsprop_optax.wrappers._precision import round_to


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """A compiled training step.

    It is called with parameters, state, batch and perhaps a key, and keeps none of them.
    """

    loss_fn: Callable[..., Any]
    tx: optax.GradientTransformation
    mesh: Mesh
    axis_name: AxisName
    has_aux: bool
    weighted: bool
    aux_reduction: PyTree
    micro_steps: int
    value_and_grad: Callable[..., Any]
    shards_state: bool
    _programs: dict[Any, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        axis_size(self.mesh, self.axis_name)
        check_transformation("tx", self.tx)
        check_function("loss_fn", self.loss_fn)
        check_function("value_and_grad", self.value_and_grad)
        check_flag("has_aux", self.has_aux)
        check_flag("weighted", self.weighted)
        check_reduction(self.aux_reduction)
        if not self.has_aux:
            check_has_effect("aux_reduction", self.aux_reduction, "mean", "has_aux=True")
        check_whole_number("micro_steps", self.micro_steps, least=1)

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
        into = f"{self._count} devices"
        if self.micro_steps > 1:
            into += f" with {self.micro_steps} micro-steps each"
        check_divides(batch, self._count * self.micro_steps, into)
        params, opt_state = unshared((params, opt_state))
        whole = NamedSharding(self.mesh, PartitionSpec())
        params = place(params, whole, self.axis_name, "Parameter")
        leaves, structure = jax.tree.flatten(params)
        kind = structure, tuple((p.shape, p.dtype) for p in leaves)
        known = self._programs.get(kind)
        if known:
            shardings = known[1]
        else:
            axis = self.axis_name if self.shards_state else None
            shardings = shardings_like(self.tx, params, self.mesh, axis)
        opt_state = place(opt_state, shardings, self.axis_name, "Optimizer state")
        if known is None:
            known = self._programs[kind] = self._compile(params, opt_state), shardings
        split = NamedSharding(self.mesh, self._split)
        batch = jax.tree.map(lambda x: put(x, split), batch)
        key = place(key, whole, self.axis_name, "Key")
        return known[0], (params, opt_state, batch, key)

    @property
    def _count(self) -> int:
        return axis_size(self.mesh, self.axis_name)

    @property
    def _split(self) -> PartitionSpec:
        return PartitionSpec(self.axis_name)

    def _compile(self, params: PyTree, opt_state: PyTree) -> Any:
        """The jitted step, which returns what it takes in the same formats."""
        whole, split = (
            NamedSharding(self.mesh, spec) for spec in (PartitionSpec(), self._split)
        )
        aux = jax.tree.map(
            lambda word: split if word == "none" else whole, self.aux_reduction
        )
        beside = (aux,) if self.has_aux else ()
        held = jax.tree.map(format_of, (params, opt_state))
        return jax.jit(
            partial(self._train, stored_by_columns(params, self.mesh)),
            donate_argnums=(0, 1),
            out_shardings=(*held, whole, *beside),
        )

    def _train(
        self,
        by_columns: frozenset[Keys],
        params: PyTree,
        opt_state: PyTree,
        batch: PyTree,
        key: Any,
    ) -> tuple[Any, ...]:
        loss_scale = scale_loss(jnp.ones(()), opt_state)
        specs = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, (params, opt_state))
        whole = PartitionSpec()
        # Where axes are explicit, shardings are types, and transformations such as
        # Optax's do not say what theirs are. On automatic axes XLA decides.
        update: Any = jax.sharding.auto_axes(
            self._update, axes=self.mesh.axis_names, out_sharding=(*specs, whole, whole)
        )
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            outcomes = self._outcomes(params, loss_scale, batch, key)
            warn_of_copies(outcomes.grads, by_columns)
            examples = outcomes.aux.none
            outcomes = outcomes._replace(aux=outcomes.aux._replace(none=None))
            *new, aux = update(outcomes, opt_state, params)
        beside = (joined(aux._replace(none=examples)),) if self.has_aux else ()
        return (*new, *beside)

    def _terms(self, params: PyTree, batch: PyTree, *key: Any) -> tuple[Any, Any, Aux]:
        """What the loss returns: its value, its weight, and aux by its reductions."""
        value, weight, aux = loss_terms(
            self.loss_fn(params, batch, *key),
            has_aux=self.has_aux,
            weighted=self.weighted,
        )
        return value, weight, by_reduction(aux, self.aux_reduction, batch)

    def _outcomes(
        self, params: PyTree, loss_scale: jax.Array, batch: PyTree, key: Any
    ) -> Outcome:
        """The gradients, loss and aux of every device, along a new first axis.

        It costs nothing. The means are computed apart from it: their `out_specs` need the
        trees of the gradients and of aux, which are known now. What aux has for each
        example is along the axis that it has.
        """
        whole, split = PartitionSpec(), self._split

        def local(*args: Any) -> Outcome:
            outcome = local_outcome(
                self._terms,
                *args,
                axis=self.axis_name,
                micro_steps=self.micro_steps,
                value_and_grad=self.value_and_grad,
            )
            stacked: Any = jax.tree.map(lambda x: x[None], outcome)
            return stacked._replace(aux=stacked.aux._replace(none=outcome.aux.none))

        return self._shard_map(
            local, in_specs=(whole, whole, split, whole), out_specs=split
        )(params, loss_scale, batch, key)

    def _update(
        self, outcomes: Outcome, opt_state: PyTree, params: PyTree
    ) -> tuple[PyTree, PyTree, jax.Array, Aux]:
        """The new parameters and state, the mean loss and the reduced aux."""
        grads, loss, weight, aux = self._means(outcomes)
        if weight is not None:
            # Once, at the end: on a device that has only padding it would be 0/0.
            grads = round_to(grads, divide_wide(grads, weight))
            loss = loss / weight
        parts = jax.tree.map(self._part, grads, params, is_leaf=is_leaf)
        tx = optax.with_extra_args_support(self.tx)
        updates, opt_state = tx.update(grads, opt_state, parts, value=loss)
        return optax.apply_updates(parts, updates), opt_state, loss, aux

    def _means(self, outcomes: Outcome) -> Outcome:
        """Means and sums over the devices; sharded gradients where the state is."""

        def mean(leaf: Any) -> Any:
            return mean_over_devices(leaf, self.axis_name)

        def mean_gradient(g: Any) -> Any:
            return mean_over_devices(g, self.axis_name, self._dim(g))

        def total(leaf: Any) -> Any:
            return jax.lax.psum(leaf, self.axis_name)

        def means(outcomes: Outcome) -> Outcome:
            here: Any = jax.tree.map(lambda x: x[0], outcomes)
            grads = jax.tree.map(mean_gradient, here.grads, is_leaf=is_leaf)
            loss, weight = jax.tree.map(mean, (here.loss, here.weight))
            aux = jax.tree.map(mean, here.aux.mean), jax.tree.map(total, here.aux.sum)
            return Outcome(grads, loss, weight, Aux(*aux, None))

        def spec(stacked: Any) -> PartitionSpec:
            return self._spec(self._dim(stacked, first=1))

        specs = jax.tree.map(spec, outcomes.grads, is_leaf=is_leaf)
        whole: Any = PartitionSpec()
        return self._shard_map(
            means, in_specs=self._split, out_specs=Outcome(specs, whole, whole, whole)
        )(outcomes)

    def _shard_map(self, fn: Callable[..., Any], **specs: Any) -> Callable[..., Any]:
        return jax.shard_map(fn, axis_names={*names_of(self.axis_name)}, **specs)

    def _dim(self, g: Any, first: int = 0) -> int | None:
        """The axis, from ``first``, along which a gradient is scattered; None: none."""
        if is_leaf(g) or not self.shards_state:
            return None
        return first_split(g.shape[first:], self._count)

    def _spec(self, dim: int | None) -> PartitionSpec:
        if dim is None:
            return PartitionSpec()
        return PartitionSpec(*[None] * dim, self.axis_name)

    def _part(self, g: Any, p: Any) -> Any:
        """A parameter sharded as its gradient; no device sends anything for that."""
        dim = self._dim(g)
        if dim is None:
            return p
        return jax.lax.with_sharding_constraint(p, self._spec(dim))
