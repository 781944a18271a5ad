"""Gradient accumulation: the mean of k gradients, one update."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax._foundation._alignment import MOMENTS, aligned
from rmsprop_optax._foundation._checks import check_flag, check_whole_number
from rmsprop_optax._foundation._dtypes import (
    as_number,
    cast,
    common_dtype,
    divided,
    leaf_dtype,
    wide_dtype,
)
from rmsprop_optax._foundation._leafwise import init_moment
from rmsprop_optax._foundation._missing_gradients import checked_inner
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._schedules import as_rate, is_schedule, next_count
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._state_fields import register, state_fields
from rmsprop_optax._foundation._trees import (
    find_states,
    is_gradient_leaf,
    is_leaf,
    leaves_with_paths,
    map_values,
    rebuild,
    unbox,
)
from rmsprop_optax._foundation._types import Count, PyTree, Schedule, Tracer
from rmsprop_optax.wrappers._cond_update import cond_update
from rmsprop_optax.wrappers._precision import round_to


class AccumulateGradientsState(NamedTuple):
    """State of [`accumulate_gradients`][rmsprop_optax.accumulate_gradients].

    Attributes:
      count: Micro-steps since the last update, int32, from 0 to k - 1.
      gradient_step: Updates so far, int32.
      acc_grads: The sums of the gradients since then, in the parameter's dtype or
        float32, whichever is wider; exactly zero after an update.
      inner_state: The state of the inner transformation, which changes with updates.
    """

    count: jax.Array
    gradient_step: jax.Array
    acc_grads: PyTree
    inner_state: PyTree


register(AccumulateGradientsState, state_fields(acc_grads="sum"))


@dataclass(frozen=True)
class DenseSums:
    """How dense gradients are added up, and how the sums are kept in the state.

    One array for each parameter. `sparse.RowSums` does it for gradients by rows too.
    """

    def init(self, params: PyTree) -> PyTree:
        """Zeros in the parameter's dtype or float32, whichever is wider."""
        return init_moment(params)

    def add(self, acc_grads: PyTree, updates: PyTree) -> PyTree:
        """The sums with one more gradient, as a tree of gradients."""
        for path, g in leaves_with_paths(updates):
            if is_gradient_leaf(g):
                raise TypeError(
                    f"Gradient '{path}' is {g!r} and is accumulated: say how many rows "
                    "the calls of one update touch at the most, with `accumulate_rows="
                    f"{{'{path}': n}}` (of `accumulate_gradients`: `sums=sparse.RowSums("
                    f"{{'{path}': n}})`)."
                )
        rows = aligned(updates, acc_grads, what=MOMENTS)
        return rebuild(acc_grads, [add_leaf(g, total) for g, total in rows])

    def store(self, sums: PyTree) -> PyTree:
        """The sums as the state keeps them."""
        return sums


def add_leaf(g: Any, total: Any) -> Any:
    """The sum with one more gradient, in the dtype of the sum."""
    if g is None:
        return total
    wide = common_dtype(wide_dtype(leaf_dtype(g)), total.dtype)
    return cast(cast(total, wide) + cast(g, wide), total.dtype)


@recorded
def accumulate_gradients(
    inner: optax.GradientTransformation,
    gradient_accumulation_steps: Count | Schedule,
    sums: DenseSums | None = None,
    use_grad_mean: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs ``inner`` once every k calls, on the mean of the k gradients.

    The sum and the mean are float32, or wider where the gradients are; the update is
    rounded once, to the dtype of the gradients.

    The calls in between add the gradient and return zero updates. `optax.MultiSteps`
    runs ``inner`` at each of them and multiplies by 0, so that one infinite gradient
    leaves a NaN in its accumulator for ever; here the sums are exactly zero after each
    update. (A leaf whose gradient is None in the k-th call keeps its sum for the next
    update.)

    Args:
      inner: The transformation. Everything in it moves with updates, not with calls.
      gradient_accumulation_steps: k, the calls of an update, at least 1; or a function
        from the number of updates so far to k, which is rounded to an integer; less than
        1 counts as 1. With 1, each call is an update.
      sums: How gradients are added up. For tables whose gradients come as
        [`RowSlices`][rmsprop_optax.sparse.RowSlices] give
        [`sparse.RowSums`][rmsprop_optax.sparse.RowSums]; None: all gradients are dense.
      use_grad_mean: Whether ``inner`` gets the mean of the gradients; False: their sum.

    Returns:
      A transformation. Extra arguments go to ``inner``, of the k-th call only.
      [`has_updated`][rmsprop_optax.has_updated] tells whether the last call was one.

    Raises:
      ValueError: For a number of steps less than 1, or a known number that a function
        returns and that is not finite. (A traced one makes the mean NaN.)
      TypeError: For one that is not an integer (of a function: a real scalar); at the
        first trace, for a gradient by rows without `sparse.RowSums`.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.accumulate_gradients(optax.scale(-1.0), 2)
      >>> state = tx.init(jnp.array(0.0))
      >>> for gradient in (1.0, 3.0):
      ...     update, state = tx.update(jnp.array(gradient), state)
      ...     print(update)
      0.0
      -2.0

    References:
      Keras 3, `gradient_accumulation_steps`; Optax, `MultiSteps`.
    """
    name = "gradient_accumulation_steps"
    schedule = None
    if is_schedule(name, gradient_accumulation_steps):
        schedule = as_rate(name, gradient_accumulation_steps)
    else:
        check_whole_number(name, gradient_accumulation_steps, least=1)
    check_flag("use_grad_mean", use_grad_mean)
    adds = DenseSums() if sums is None else sums
    inner_init, inner_update = checked_inner(inner)

    def init_fn(params: PyTree) -> AccumulateGradientsState:
        return AccumulateGradientsState(
            count=jnp.zeros([], jnp.int32),
            gradient_step=jnp.zeros([], jnp.int32),
            acc_grads=adds.init(params),
            inner_state=inner_init(params),
        )

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, AccumulateGradientsState]:
        every_k: Any = gradient_accumulation_steps
        if schedule is not None:
            every_k = _calls(name, schedule(state.gradient_step))
        count = next_count(state.count)
        is_last = ~(count < every_k)  # where that is NaN too

        def mean_leaf(g: Any, total: Any) -> Any:
            if g is None or not use_grad_mean:
                return None if g is None else total
            return map_values(lambda x: divided(x, as_number(every_k)), total)

        def update(total: PyTree, inner_state: PyTree) -> tuple[PyTree, PyTree]:
            mean = jax.tree.map(mean_leaf, updates, total, is_leaf=is_leaf)
            new, inner_state = inner_update(mean, inner_state, params, **extra_args)
            return round_to(updates, new), inner_state

        total = adds.add(state.acc_grads, updates)
        outcome = cond_update(
            is_last,
            update,
            (state.acc_grads, updates),
            state.inner_state,
            combine=lambda pair: adds.add(*pair),
        )

        def carried_over(g: Any, total: Any, unused: Any) -> Any:
            return total if g is None else unused

        left = jax.tree.map(carried_over, updates, total, outcome.unused, is_leaf=is_leaf)
        return outcome.updates, AccumulateGradientsState(
            count=jnp.where(is_last, 0, count).astype(jnp.int32),
            gradient_step=jnp.where(
                is_last, next_count(state.gradient_step), state.gradient_step
            ),
            acc_grads=adds.store(left),
            inner_state=outcome.state,
        )

    return check_states(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def has_updated(opt_state: PyTree) -> jax.Array:
    """Whether the last call of an accumulation was an update.

    Args:
      opt_state: A state with that of one
        [`accumulate_gradients`][rmsprop_optax.accumulate_gradients] in it, such as that
        of `rmsprop` with ``gradient_accumulation_steps``.

    Returns:
      A boolean scalar; False before the first update.

    Raises:
      ValueError: For a state without an accumulation, or with several.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import has_updated, rmsprop
      >>> tx = rmsprop(gradient_accumulation_steps=2)
      >>> opt_state = tx.init(jnp.array(1.0))
      >>> for _ in range(3):
      ...     _, opt_state = tx.update(jnp.array(1.0), opt_state)
      ...     print(has_updated(opt_state))
      False
      True
      False
    """
    found = find_states(unbox(opt_state), AccumulateGradientsState)
    if len(found) != 1:
        raise ValueError(
            f"`opt_state` holds {len(found)} states of `accumulate_gradients`, not one: "
            "give the part that belongs to it."
        )
    [(_, state)] = found
    return (state.count == 0) & (state.gradient_step > 0)


def _calls(name: str, returned: Any) -> jax.Array:
    """The number of calls that a function returned; NaN if it is not finite."""
    if not isinstance(returned, Tracer) and not np.isfinite(returned):
        raise ValueError(f"`{name}` must return a finite number, it returned {returned}.")
    calls = jnp.asarray(returned)
    rounded = jnp.maximum(jnp.round(calls), 1)
    if not jnp.issubdtype(calls.dtype, jnp.inexact):
        return rounded
    return jnp.where(jnp.isfinite(calls), rounded, jnp.nan)
