"""Dropping the steps whose gradients are not finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._axes import check_axis_name
from rmsprop_optax._foundation._checks import check_whole_number
from rmsprop_optax._foundation._missing_gradients import checked_inner
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._schedules import next_count
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._types import AxisName, Count, PyTree
from rmsprop_optax.wrappers._cond_update import Update, all_finite, cond_update


class SkipNonfiniteState(NamedTuple):
    """State of [`skip_nonfinite`][rmsprop_optax.skip_nonfinite].

    Attributes:
      notfinite_count: Calls in a row, up to the last one, whose gradients were not
        finite, int32.
      total_notfinite: Such calls so far, int32.
      inner_state: The state of the transformation inside.
    """

    notfinite_count: jax.Array
    total_notfinite: jax.Array
    inner_state: PyTree


@recorded
def skip_nonfinite(
    inner: optax.GradientTransformation,
    *,
    max_consecutive_errors: Count | None = None,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Drops a step whose gradients hold an infinity or a NaN.

    The update is then zero and the inner state does not change, counts and accumulators
    included. The state counts such calls: all of them, and those in a row.

    Args:
      inner: The transformation.
      max_consecutive_errors: The largest number of calls in a row that are dropped. The
        next such call is applied, as in `optax.apply_if_finite`: its infinities and NaNs
        reach the parameters, and end a run that can't recover. None: all are dropped;
        [`consecutive_errors`][rmsprop_optax.consecutive_errors] tells how many.
      axis_name: Inside `jax.shard_map` or `jax.pmap`, the axis (or axes) whose devices
        decide together: a gradient that is not finite on one of them drops the step on
        all.

    Returns:
      A transformation. Extra arguments go to ``inner``.

    Raises:
      TypeError: For a number that is not an integer, or an axis name that is not a
        string or a tuple of strings.
      ValueError: For a number less than 1; at the first trace, for an axis that is not
        there.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.skip_nonfinite(optax.trace(0.9))
      >>> state = tx.init(jnp.array(0.0))
      >>> update, state = tx.update(jnp.array(jnp.nan), state)
      >>> print(update, state.total_notfinite, state.inner_state.trace)
      0.0 1 0.0
    """
    check_skipping(max_consecutive_errors, axis_name)
    inner_init, inner_update = checked_inner(inner)

    def init_fn(params: PyTree) -> SkipNonfiniteState:
        return SkipNonfiniteState(
            notfinite_count=jnp.zeros([], jnp.int32),
            total_notfinite=jnp.zeros([], jnp.int32),
            inner_state=inner_init(params),
        )

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, SkipNonfiniteState]:
        def update(updates: PyTree, inner_state: PyTree) -> tuple[PyTree, PyTree]:
            return inner_update(updates, inner_state, params, **extra_args)

        _, new, fields = update_if_finite(
            update, updates, state, max_consecutive_errors, axis_name
        )
        return new, SkipNonfiniteState(**fields)

    return check_states(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def check_skipping(max_consecutive_errors: Any, axis_name: Any) -> None:
    """The arguments that all wrappers have which drop a call."""
    if max_consecutive_errors is not None:
        check_whole_number("max_consecutive_errors", max_consecutive_errors, least=1)
    if axis_name is not None:
        check_axis_name("axis_name", axis_name)


def update_if_finite(
    update: Update,
    updates: PyTree,
    state: Any,
    max_consecutive_errors: Count | None,
    axis_name: AxisName | None,
) -> tuple[jax.Array, PyTree, dict[str, Any]]:
    """Runs ``update`` on finite updates, and on those after too many that were not.

    Returns:
      Whether the updates are finite; the new ones; the fields of the state that all
      wrappers have which drop a call.
    """
    finite = all_finite(updates, axis_name)
    in_a_row = jnp.where(finite, 0, next_count(state.notfinite_count))
    applies = finite
    if max_consecutive_errors is not None:
        applies = finite | (in_a_row > max_consecutive_errors)
    outcome = cond_update(applies, update, updates, state.inner_state)
    total = state.total_notfinite
    fields = {
        "notfinite_count": in_a_row,
        "total_notfinite": jnp.where(finite, total, next_count(total)),
        "inner_state": outcome.state,
    }
    return finite, outcome.updates, fields
