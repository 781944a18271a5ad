"""Training steps over a mesh axis, with the state whole on every device or sharded.

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
            shardings = shardings_like(self.tx, params, self.mesh, axis, opt_state)
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
        whole = NamedSharding(self.mesh, PartitionSpec())
        split = NamedSharding(self.mesh, self._split)
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
        try:
            updates, opt_state = tx.update(grads, opt_state, parts, value=loss)
        except TypeError as error:
            if "value_fn" not in str(error):
                raise
            raise TypeError(
                "`tx` computes the loss at other parameters, as line searches do, and a "
                "training step only gives it the loss and the gradients of this call. "
                "Write that step with `jax.jit`."
            ) from error
        return optax.apply_updates(parts, updates), opt_state, loss, aux

    def _means(self, outcomes: Outcome) -> Outcome:
        """Means and sums over the devices; sharded gradients where the state is."""
        mean = partial(mean_over_devices, axis=self.axis_name)
        total = partial(jax.lax.psum, axis_name=self.axis_name)

        def mean_gradient(g: Any) -> Any:
            return mean(g, dim=self._dim(g))

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


def data_parallel(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    axis_name: AxisName = "data",
    *,
    has_aux: bool = False,
    weighted: bool = False,
    aux_reduction: PyTree = "mean",
    micro_steps: int = 1,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> TrainingStep:
    """A compiled training step on all devices along a mesh axis.

    Each device takes its part of the batch. Gradients and loss are averaged over the
    devices, and every device computes the same update. The result is that of one device
    on the whole batch, to the order in which numbers are added, for any transformation.

    Where the state has a loss scale, the loss is multiplied by it. A NaN on one device is
    a NaN in the mean, so all devices skip that step. The step compiles once.

    Args:
      loss_fn: ``loss_fn(params, batch)``, a plain mean over the batch (see ``weighted``
        for others); or ``loss_fn(params, batch, key)`` where the step is given a key.
      tx: The transformation. It sees whole gradients: leave its ``axis_name`` out.
      mesh: The devices.
      axis_name: The axis (or axes) that the batch is split along. Parameters may be
        sharded over others.
      has_aux: Whether the loss returns ``(value, aux)``.
      weighted: For padded and masked batches, whose parts have unequal numbers of
        examples. The loss returns ``(total, weight)`` in the place of its mean (with
        ``has_aux``, ``((total, weight), aux)``): the sum over the real examples (or
        tokens) of its part, and how many they are. Both are added up over devices and
        micro-steps, and so are the gradients of ``total``; what the step takes is their
        quotient, NaN where all weights are 0 (`skip_nonfinite` drops such a step). The
        weight must not depend on the parameters.
      aux_reduction: What becomes of aux: its "mean" over devices and micro-steps, the
        plain one, its "sum", or with "none" all of it, in the order of the batch, for
        leaves with a first axis of examples. Or a tree of these like (the top of) aux.
      micro_steps: k: each device cuts its part into k, and adds up their gradients
        (in float32 or wider) before anything is communicated: one reduction for k.
      value_and_grad: How the loss is differentiated, called with it and ``has_aux``.
        ``functools.partial(sparse.value_and_grad, ids=ids)`` gives the gradients of
        tables by rows: then the devices exchange the rows that they touch, not tables.

    Returns:
      ``step(params, opt_state, batch, key=None)``, which returns
      ``(params, opt_state, loss)``, and aux too with ``has_aux``. The arguments
      ``params`` and ``opt_state`` are donated. Every array of the batch is split
      along its first axis. Each device has a key of its own, made from ``key``.
      ``step.lower(...)`` is that of `jax.jit`.

    Raises:
      ValueError: For an axis that the mesh does not have; from the step, for a batch
        that can't be split evenly, or a state on other devices.
      TypeError: For what is not a mesh, or a ``micro_steps`` that is not an integer; from
        the step, for a loss that returns something else than announced.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from rmsprop_optax import parallel, rmsprop
      >>> def loss_fn(params, batch):
      ...     return jnp.mean((batch["x"] @ params - batch["y"]) ** 2)
      >>> mesh = jax.make_mesh((8,), ("data",))
      >>> tx = rmsprop(0.1)
      >>> step = parallel.data_parallel(loss_fn, tx, mesh)
      >>> params = jnp.zeros(2)
      >>> opt_state = tx.init(params)
      >>> batch = {"x": jnp.ones((16, 2)), "y": jnp.ones(16)}
      >>> for _ in range(3):
      ...     params, opt_state, loss = step(params, opt_state, batch)
      >>> print(params, loss)
      [0.4755647 0.4755647] 0.019338518
    """
    options = has_aux, weighted, aux_reduction, micro_steps, value_and_grad
    return TrainingStep(loss_fn, tx, mesh, axis_name, *options, shards_state=False)


def sharded_data_parallel(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    axis_name: AxisName = "data",
    *,
    has_aux: bool = False,
    weighted: bool = False,
    aux_reduction: PyTree = "mean",
    micro_steps: int = 1,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> TrainingStep:
    """A training step with the optimizer state sharded over a mesh axis.

    ZeRO-1. The gradients are reduce-scattered, so that each device has the mean of its
    part of them; it updates that part of the parameters with its part of the state; then
    the parameters are gathered. The devices exchange as much as in
    [`data_parallel`][rmsprop_optax.parallel.data_parallel]; the update takes 1/n of the
    time, and the state 1/n of the memory, sharded as
    [`state_sharding`][rmsprop_optax.parallel.state_sharding] says. The result is that of
    `data_parallel`, for any transformation: norms, `optax.partition`, low-precision state
    and gradients by rows included.

    Args:
      loss_fn: As in `data_parallel`.
      tx: The transformation. It sees whole gradients: leave its ``axis_name`` out.
      mesh: The devices.
      axis_name: The axis (or axes) that batch and state are split along.
      has_aux: As there.
      weighted: As there.
      aux_reduction: As there.
      micro_steps: As there.
      value_and_grad: As there.

    Returns:
      ``step(params, opt_state, batch, key=None)``, as there. Between steps the parameters
      are whole on every device and the state is sharded. A state from ``tx.init`` is
      split at the first step; ``jax.jit(tx.init, out_shardings=state_sharding(...))``
      never has it whole.

    Raises:
      ValueError: As there.
      TypeError: As there.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from rmsprop_optax import parallel, rmsprop
      >>> mesh = jax.make_mesh((8,), ("data",))
      >>> tx = rmsprop(0.1, global_clipnorm=1.0)
      >>> def loss_fn(params, batch):
      ...     return jnp.mean((batch - params) ** 2)
      >>> step = parallel.sharded_data_parallel(loss_fn, tx, mesh)
      >>> params = jnp.zeros(16)
      >>> opt_state = tx.init(params)
      >>> params, opt_state, loss = step(params, opt_state, jnp.ones((8, 16)))
      >>> print(params[:2].round(4), loss, parallel.bytes_per_device(opt_state))
      [0.3162 0.3162] 1.0 8
    """
    options = has_aux, weighted, aux_reduction, micro_steps, value_and_grad
    return TrainingStep(loss_fn, tx, mesh, axis_name, *options, shards_state=True)
