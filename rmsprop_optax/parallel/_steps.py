"""Training steps over a mesh axis, with the state whole on every device or sharded."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from rmsprop_optax._foundation._types import AxisName, PyTree
from rmsprop_optax.parallel._training_step import TrainingStep


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
