"""A loss scale that grows while gradients are finite and shrinks when they are not."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._axes import check_axis_name
from rmsprop_optax._foundation._checks import (
    check_loss_scale,
    check_whole_number,
    checked_inner,
)
from rmsprop_optax._foundation._schedules import next_count
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._state_leaves import check_has_classes
from rmsprop_optax._foundation._trees import find_states
from rmsprop_optax._foundation._types import AxisName, Count, PyTree, Scalar
from rmsprop_optax.transforms._loss_scale import UnscaleLossState, divide_wide
from rmsprop_optax.wrappers._cond_update import all_finite, cond_update
from rmsprop_optax.wrappers._precision import round_to

# The scale and its inverse are normal float32 numbers between these.
_LEAST, _LARGEST = 2.0**-126, 2.0**126


class DynamicLossScaleState(NamedTuple):
    """State of [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale].

    Attributes:
      count: Finite steps since the scale last changed, int32.
      loss_scale: What [`scale_loss`][rmsprop_optax.scale_loss] multiplies the loss by,
        float32.
      inner_state: The state of the inner transformation.
    """

    count: jax.Array
    loss_scale: jax.Array
    inner_state: PyTree


_SCALED = (UnscaleLossState, DynamicLossScaleState)


def dynamic_loss_scale(
    inner: optax.GradientTransformation,
    init_scale: Scalar = 2.0**15,
    dynamic_growth_steps: Count = 2000,
    *,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides gradients by a loss scale that adapts.

    ``inner`` gets the gradients divided by the scale, in float32 or wider. After
    ``dynamic_growth_steps`` finite steps in a row the scale doubles. Where a divided
    gradient is infinite or NaN, the step is dropped (a zero update, the inner state does
    not change) and the scale halves. The scale stays between 2^-126 and 2^126, however
    long the run. For float16: differentiate ``scale_loss(loss, opt_state)``.

    Args:
      inner: The transformation, such as ``rmsprop()``, without a loss scale of its own.
      init_scale: The scale at first, from 2^-126 to 2^126.
      dynamic_growth_steps: Finite steps in a row to a doubling, at least 1.
      axis_name: Inside `jax.shard_map` or `jax.pmap`, the axis (or axes) whose devices
        decide together and share one scale. Gradients that were averaged over the
        devices before need none: a NaN of one is a NaN of all.

    Returns:
      A transformation. Extra arguments go to ``inner``.

    Raises:
      ValueError: For a value out of its range; at ``init``, for an ``inner`` with a loss
        scale of its own; at the first trace, for an axis that is not there.
      TypeError: For growth steps that are not an integer, or an axis name that is not a
        string or a tuple of strings.

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
    check_loss_scale("init_scale", init_scale)
    check_whole_number("dynamic_growth_steps", dynamic_growth_steps, least=1)
    if axis_name is not None:
        check_axis_name("axis_name", axis_name)
    inner_init, inner_update = checked_inner(inner)

    def init_fn(params: PyTree) -> DynamicLossScaleState:
        inner_state = inner_init(params)
        found = find_states(inner_state, *_SCALED)
        if found:
            raise ValueError(
                f"The inner transformation has a loss scale already, at {found[0][0]!r}: "
                "gradients would be divided twice. Leave `loss_scale_factor` and "
                "`unscale_loss` out of it."
            )
        return DynamicLossScaleState(
            count=jnp.zeros([], jnp.int32),
            # A copy: a donated step must not delete the user's own array.
            loss_scale=jnp.array(init_scale, jnp.float32),
            inner_state=inner_state,
        )

    def update_fn(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, DynamicLossScaleState]:
        unscaled = divide_wide(updates, state.loss_scale)
        finite = all_finite(unscaled, axis_name)

        def update(unscaled: PyTree, inner_state: PyTree) -> tuple[PyTree, PyTree]:
            return inner_update(unscaled, inner_state, params, **extra_args)

        outcome = cond_update(finite, update, unscaled, state.inner_state)
        count = next_count(state.count)
        grows = finite & (count >= dynamic_growth_steps)
        factor = jnp.where(finite, jnp.where(grows, 2.0, 1.0), 0.5)
        return round_to(updates, outcome.updates), DynamicLossScaleState(
            count=jnp.where(finite & ~grows, count, 0).astype(jnp.int32),
            loss_scale=jnp.clip(state.loss_scale * factor, _LEAST, _LARGEST),
            inner_state=outcome.state,
        )

    return check_states(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def scale_loss(loss: jax.Array, opt_state: PyTree) -> jax.Array:
    """The loss times the loss scale of ``opt_state``: differentiate this.

    Finds the scale of ``rmsprop(loss_scale_factor=...)``, of
    [`unscale_loss`][rmsprop_optax.unscale_loss] and of
    [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale]; where there is none, the
    loss comes back as it is.

    Args:
      loss: The loss, a scalar.
      opt_state: The optimizer state that the next update is given.

    Returns:
      The scaled loss, in the loss's dtype. A scale that is a power of two is exact in
      each dtype; another one is rounded to that of the loss.

    Raises:
      ValueError: Where the state holds several scales, or has lost its classes.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.rmsprop(0.1, loss_scale_factor=1024.0)
      >>> opt_state = tx.init(jnp.array(0.0))
      >>> print(rmsprop_optax.scale_loss(jnp.array(0.5), opt_state))
      512.0
    """
    check_has_classes(opt_state)
    found = find_states(opt_state, *_SCALED)
    if len(found) > 1:
        raise ValueError(
            f"The state holds {len(found)} of the loss scales: {[p for p, _ in found]}. "
            "Scale once: around the chain or partition, not inside each part of it."
        )
    for _, state in found:
        return loss * state.loss_scale.astype(jnp.result_type(loss))
    return loss
