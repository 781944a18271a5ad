"""A training step over a mesh axis: each device has a part of the batch, and all else."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rmsprop_optax._foundation._axes import axis_size, names_of
from rmsprop_optax._foundation._types import AxisName, PyTree
from rmsprop_optax.parallel._gradients import Loss, local_outcome, mean_over_devices
from rmsprop_optax.parallel._placing import place
from rmsprop_optax.parallel._step import TrainingStep, check_batch, check_loss


def data_parallel(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    axis_name: AxisName = "data",
    *,
    has_aux: bool = False,
    micro_steps: int = 1,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> TrainingStep:
    """A compiled training step on all devices along a mesh axis.

    Each device takes its part of the batch; gradients, loss and aux are averaged over
    the devices, and every device makes the same update. The result is that of one device
    on the whole batch, to the order in which numbers are added.

    Where the state has a loss scale, the loss is multiplied by it; a NaN on one device
    is one in the mean, so all devices skip that step alike. The step compiles once.

    Args:
      loss_fn: ``loss_fn(params, batch)``, a mean over the batch; or
        ``loss_fn(params, batch, key)`` where the step is given a key.
      tx: The transformation.
      mesh: The devices.
      axis_name: The axis (or axes) that the batch is split along. Parameters may be
        sharded over others.
      has_aux: Whether the loss returns something beside its value, which is averaged.
      micro_steps: k: each device cuts its part into k, and adds up their gradients
        (in float32 or wider) before anything is communicated: one reduction for k.
      value_and_grad: How the loss is differentiated, called with it and ``has_aux``.
        ``functools.partial(sparse.value_and_grad, ids=ids)`` gives the gradients of
        tables by rows: then what the devices touch is gathered, and no table is.

    Returns:
      ``step(params, opt_state, batch, key=None)``, which returns
      ``(params, opt_state, loss)``, and aux behind with ``has_aux``. The parameters and
      the state that are given are consumed (donated). Every array of the batch is split
      along its first axis. Each device has a key of its own, made from ``key``.
      ``step.lower(...)`` is that of `jax.jit`.

    Raises:
      ValueError: For an axis that the mesh does not have; from the step, for a batch
        that can't be split evenly, or a state that lies on other devices.
      TypeError: For what is no mesh, or a ``micro_steps`` that is no integer.

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
    count = axis_size(mesh, axis_name)
    loss = check_loss(loss_fn, has_aux, micro_steps, value_and_grad)
    whole, split = PartitionSpec(), PartitionSpec(axis_name)
    everywhere, apart = NamedSharding(mesh, whole), NamedSharding(mesh, split)

    def train(params: PyTree, opt_state: PyTree, batch: PyTree, key: Any) -> Any:
        return local_step(loss, tx, axis_name, params, opt_state, batch, key)

    compiled = jax.jit(
        jax.shard_map(
            train,
            mesh=mesh,
            in_specs=(whole, whole, split, whole),
            out_specs=whole,
            axis_names=set(names_of(axis_name)),
        ),
        donate_argnums=(0, 1),
    )

    def arrange(
        params: PyTree, opt_state: PyTree, batch: PyTree, key: Any
    ) -> tuple[Any, ...]:
        check_batch(batch, count, micro_steps)
        return (
            place(params, everywhere, axis_name, "Parameter"),
            place(opt_state, everywhere, axis_name, "Optimizer state"),
            jax.device_put(batch, apart),
            place(key, everywhere, axis_name, "Key"),
        )

    return TrainingStep(compiled, arrange)


def local_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    axis: AxisName,
    params: PyTree,
    opt_state: PyTree,
    batch: PyTree,
    key: Any,
) -> tuple[Any, ...]:
    """The whole step as one device sees it: its own part, and the means of all."""
    local = local_outcome(loss, params, opt_state, batch, key, axis)
    means = mean_over_devices(local, axis)
    updates, opt_state = tx.update(means.grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    beside = (means.aux,) if loss.has_aux else ()
    return params, opt_state, means.loss, *beside
