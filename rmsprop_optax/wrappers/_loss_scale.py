"""A loss scale that grows while gradients are finite and shrinks when they are not."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._checks import check_loss_scale, check_whole_number
from rmsprop_optax._foundation._missing_gradients import checked_inner
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._schedules import next_count
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._state_leaves import check_has_classes
from rmsprop_optax._foundation._trees import find_states, unbox
from rmsprop_optax._foundation._types import AxisName, Count, PyTree, Scalar
from rmsprop_optax.transforms._loss_scale import UnscaleLossState, divide_wide
from rmsprop_optax.wrappers._precision import round_to
from rmsprop_optax.wrappers._skip_nonfinite import (
    SkipNonfiniteState,
    check_skipping,
    update_if_finite,
)


class DynamicLossScaleState(NamedTuple):
    """State of [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale].

    Attributes:
      count: Finite steps since the scale last changed, int32.
      loss_scale: What [`scale_loss`][rmsprop_optax.scale_loss] multiplies the loss by,
        float32.
      notfinite_count: Calls in a row, up to the last one, whose gradients were not
        finite, int32.
      total_notfinite: Such calls so far, int32.
      inner_state: The state of the inner transformation.
    """

    count: jax.Array
    loss_scale: jax.Array
    notfinite_count: jax.Array
    total_notfinite: jax.Array
    inner_state: PyTree


_SCALED = (UnscaleLossState, DynamicLossScaleState)
_DROPPING = (SkipNonfiniteState, DynamicLossScaleState, optax.ApplyIfFiniteState)


@recorded
def dynamic_loss_scale(
    inner: optax.GradientTransformation,
    init_scale: Scalar = 2.0**15,
    dynamic_growth_steps: Count = 2000,
    *,
    max_consecutive_errors: Count | None = None,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides gradients by a loss scale that adapts.

    ``inner`` gets the gradients divided by the scale, in float32 or wider. After
    ``dynamic_growth_steps`` finite steps in a row the scale doubles. Where a divided
    gradient is infinite or NaN, the step is dropped (a zero update, the inner state does
    not change) and the scale halves. The scale stays between 2^-126 and 2^126, however
    long the run, and the state counts the dropped steps: all of them, and those in a
    row. For float16: differentiate ``scale_loss(loss, opt_state)``.

    Args:
      inner: The transformation, such as ``rmsprop()``, without a loss scale of its own.
      init_scale: The scale at first, from 2^-126 to 2^126.
      dynamic_growth_steps: Finite steps in a row to a doubling, at least 1.
      max_consecutive_errors: As in [`skip_nonfinite`][rmsprop_optax.skip_nonfinite]. A
        scale that is too large at first needs some: 15 halvings take 2^15 to 1.
      axis_name: Inside `jax.shard_map` or `jax.pmap`, the axis (or axes) whose devices
        decide together and share one scale. Gradients that were averaged over the
        devices before need none: a NaN of one is a NaN of all.

    Returns:
      A transformation. Extra arguments go to ``inner``.

    Raises:
      ValueError: For a value out of its range; at ``init``, for an ``inner`` with a loss
        scale of its own; at the first trace, for an axis that is not there.
      TypeError: For growth steps or errors that are not integers, or an axis name that is
        not a string or a tuple of strings.

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
    check_skipping(max_consecutive_errors, axis_name)
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
            notfinite_count=jnp.zeros([], jnp.int32),
            total_notfinite=jnp.zeros([], jnp.int32),
            inner_state=inner_state,
        )

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, DynamicLossScaleState]:
        unscaled = divide_wide(updates, state.loss_scale)

        def update(unscaled: PyTree, inner_state: PyTree) -> tuple[PyTree, PyTree]:
            return inner_update(unscaled, inner_state, params, **extra_args)

        finite, new, fields = update_if_finite(
            update, unscaled, state, max_consecutive_errors, axis_name
        )
        count = next_count(state.count)
        grows = finite & (count >= dynamic_growth_steps)
        factor = jnp.where(finite, jnp.where(grows, 2.0, 1.0), 0.5)
        return round_to(updates, new), DynamicLossScaleState(
            count=jnp.where(finite & ~grows, count, 0).astype(jnp.int32),
            # The scale and its inverse are normal float32 numbers between these.
            loss_scale=jnp.clip(state.loss_scale * factor, 2.0**-126, 2.0**126),
            **fields,
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


def consecutive_errors(opt_state: PyTree) -> jax.Array:
    """How many calls in a row, up to the last one, were not finite and so dropped.

    A number that grows with every step is that of a run that does not train any more: the
    loss itself overflows. Ask in the training loop now and then.

    Args:
      opt_state: A state with that of
        [`skip_nonfinite`][rmsprop_optax.skip_nonfinite],
        [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale] or
        `optax.apply_if_finite` in it, at any depth.

    Returns:
      An int32 scalar: 0 where the last call was finite; of several wrappers the largest.

    Raises:
      ValueError: For a state without any of them, or that has lost its classes.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import consecutive_errors, rmsprop
      >>> tx = rmsprop(skip_nonfinite=True)
      >>> opt_state = tx.init(jnp.array(1.0))
      >>> for gradient in (1.0, jnp.nan, jnp.inf):
      ...     _, opt_state = tx.update(jnp.array(gradient), opt_state)
      ...     print(consecutive_errors(opt_state))
      0
      1
      2
    """
    check_has_classes(opt_state)
    found = find_states(unbox(opt_state), *_DROPPING)
    if not found:
        raise ValueError(
            "`opt_state` holds no state of a wrapper that drops steps: put the "
            "transformation into `skip_nonfinite` or `dynamic_loss_scale`."
        )
    return jnp.max(jnp.stack([jnp.asarray(x.notfinite_count) for _, x in found]))
