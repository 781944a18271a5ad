"""A loss scale that grows while gradients are finite and shrinks when they are not."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._axes import check_axis_name
from rmsprop_optax._foundation._dtypes import real_like
from rmsprop_optax._foundation._types import AxisName, Count, PyTree, Scalar
from rmsprop_optax._foundation._validation import check_positive, check_whole_number
from rmsprop_optax.leaves import all_finite, map_leaves
from rmsprop_optax.wrappers._gate import make_or_hold


class DynamicLossScaleState(NamedTuple):
    """State of [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale].

    Attributes:
      count: Finite steps since the scale last changed, int32.
      loss_scale: What [`scale_loss`][rmsprop_optax.scale_loss] multiplies the loss by,
        float32.
      inner_state: The state of the transformation inside.
    """

    count: jax.Array
    loss_scale: jax.Array
    inner_state: PyTree


def dynamic_loss_scale(
    inner: optax.GradientTransformation,
    initial_scale: Scalar = 2.0**15,
    dynamic_growth_steps: Count = 2000,
    *,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides gradients by a loss scale that finds its own size.

    With finite gradients, ``inner`` gets them divided by the scale; after
    ``dynamic_growth_steps`` finite steps in a row the scale doubles. With a gradient
    that is infinite or NaN, the step is dropped (a zero update, the inner state
    untouched) and the scale halves. For float16: differentiate
    ``scale_loss(loss, opt_state)``.

    Args:
      inner: The transformation, such as ``rmsprop()``, without a loss scale of its own.
      initial_scale: The scale at first, greater than 0.
      dynamic_growth_steps: Finite steps in a row to a doubling, at least 1.
      axis_name: Inside of `jax.shard_map` or `jax.pmap`, the axis (or axes) whose
        devices share one verdict and so one scale. Gradients that were averaged over
        the devices before need none: a NaN of one is a NaN of all.

    Returns:
      A transformation. Extra arguments go to ``inner``.

    Raises:
      ValueError: For a value out of its range; at the first trace, for an axis that is
        not there.
      TypeError: For growth steps that are not an integer, an axis name that is none.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.dynamic_loss_scale(rmsprop_optax.rmsprop())
      >>> state = tx.init(jnp.array(0.0))
      >>> print(rmsprop_optax.scale_loss(jnp.array(1.0), state))
      32768.0
      >>> update, state = tx.update(jnp.array(jnp.inf), state)
      >>> print(update, rmsprop_optax.scale_loss(jnp.array(1.0), state))
      0.0 16384.0

    References:
      Keras 3, `keras/src/optimizers/loss_scale_optimizer.py`.
    """
    check_positive("initial_scale", initial_scale)
    check_whole_number("dynamic_growth_steps", dynamic_growth_steps, least=1)
    if axis_name is not None:
        check_axis_name("axis_name", axis_name)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: PyTree) -> DynamicLossScaleState:
        return DynamicLossScaleState(
            count=jnp.zeros([], jnp.int32),
            loss_scale=jnp.asarray(initial_scale, jnp.float32),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, DynamicLossScaleState]:
        finite = all_finite(updates, axis_name)
        scale = state.loss_scale
        unscaled = map_leaves(lambda g: g / real_like(scale, g), updates)

        def make(unscaled: PyTree, inner_state: PyTree) -> tuple[PyTree, PyTree]:
            return inner.update(unscaled, inner_state, params, **extra_args)

        made, _, inner_state = make_or_hold(finite, make, unscaled, state.inner_state)
        grows = finite & (state.count + 1 >= dynamic_growth_steps)
        factor = jnp.where(finite, jnp.where(grows, 2.0, 1.0), 0.5)
        count = jnp.where(finite & ~grows, state.count + 1, 0).astype(jnp.int32)
        return made, DynamicLossScaleState(count, scale * factor, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
