"""The same step with `pmap`, for those who still use it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from rmsprop_optax._foundation._axes import check_axis_name
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.parallel._data_parallel import local_step
from rmsprop_optax.parallel._step import TrainingStep, check_batch, check_loss


def pmap_data_parallel(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    axis_name: str = "data",
    *,
    devices: Sequence[Any] | None = None,
    has_aux: bool = False,
    micro_steps: int = 1,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> TrainingStep:
    """[`data_parallel`][rmsprop_optax.parallel.data_parallel] with `jax.pmap`.

    Parameters, state and loss have no axis of devices: they go in and come out as one
    (``in_axes=None``, ``out_axes=None``), and stay on the devices in between.

    Args:
      loss_fn: As there.
      tx: The transformation.
      axis_name: The name of the axis that is mapped, which ``loss_fn`` may use.
      devices: Which; None: all that `jax.pmap` takes.
      has_aux: As there.
      micro_steps: As there.
      value_and_grad: As there.

    Returns:
      ``step(params, opt_state, batch, key=None)``, as there.

    Raises:
      TypeError: For an axis name that is none, or a ``micro_steps`` that is no integer.
      ValueError: From the step, for a batch that can't be split evenly.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import parallel, rmsprop
      >>> tx = rmsprop(0.1)
      >>> step = parallel.pmap_data_parallel(lambda p, x: jnp.mean((x - p) ** 2), tx)
      >>> params = jnp.zeros(())
      >>> params, opt_state, loss = step(params, tx.init(params), jnp.ones(16))
      >>> print(params, loss)
      0.31622773 1.0
    """
    check_axis_name("axis_name", axis_name)
    loss = check_loss(loss_fn, has_aux, micro_steps, value_and_grad)
    count = jax.local_device_count() if devices is None else len(devices)

    def train(params: PyTree, opt_state: PyTree, batch: PyTree, key: Any) -> Any:
        return local_step(loss, tx, axis_name, params, opt_state, batch, key)

    compiled = jax.pmap(
        train,
        axis_name,
        in_axes=(None, None, 0, None),
        out_axes=None,
        devices=devices,
        donate_argnums=(0, 1),
    )

    def arrange(
        params: PyTree, opt_state: PyTree, batch: PyTree, key: Any
    ) -> tuple[Any, ...]:
        check_batch(batch, count, micro_steps)
        parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
        return params, opt_state, parts, key

    return TrainingStep(compiled, arrange)
