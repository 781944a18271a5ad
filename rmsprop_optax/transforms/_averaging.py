"""The exponential moving average of the parameters, and their overwriting by it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax import rules
from rmsprop_optax._foundation._alignment import check_has_params, check_parameters
from rmsprop_optax._foundation._axes import sharded_like
from rmsprop_optax._foundation._checks import (
    check_closed_decay,
    check_flag,
    check_whole_number,
)
from rmsprop_optax._foundation._dtypes import (
    as_number,
    cast,
    common_dtype,
    real_like,
    wide_dtype,
)
from rmsprop_optax._foundation._leafwise import map_moments
from rmsprop_optax._foundation._schedules import next_count
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._state_fields import register, state_fields
from rmsprop_optax._foundation._state_leaves import check_has_classes
from rmsprop_optax._foundation._trees import find_states, is_leaf, unbox
from rmsprop_optax._foundation._types import Count, PyTree, Scalar


class AverageParamsState(NamedTuple):
    """State of [`average_params`][rmsprop_optax.average_params].

    Attributes:
      count: Calls of ``update`` so far, int32. (From the largest one it goes on in a
        circle: by its remainder the overwriting is timed.)
      ema: The average, in the parameter's dtype or float32, whichever is wider; before
        the first call, the parameters.
    """

    count: jax.Array
    ema: PyTree


register(AverageParamsState, state_fields(ema="full"))


def average_params(
    decay: Scalar = 0.99,
    overwrite_frequency: Count | None = None,
    gradient_accumulation_steps: Count = 1,
    from_initial: bool = False,
) -> optax.GradientTransformation:
    """Averages the parameters that the update will make, and may overwrite them.

    $$a_t = β a_{t-1} + (1 - β) (p + u)$$

    While $i = 0$, $β$ counts as 0, unless ``from_initial``. Whenever $i + 1$ is a
    multiple of ``overwrite_frequency``, the update becomes $a_t - p$, so that the
    parameter becomes its average. The clock is ``i = t // k``, with t the calls from 0.
    It comes last in a chain; $p + u$ is the sum that `optax.apply_updates` computes, in
    the dtype of $p$.

    Args:
      decay: $β$, in [0, 1].
      overwrite_frequency: In iterations, at least 1; None: never.
      gradient_accumulation_steps: k, the calls of an iteration, at least 1, where an
        accumulation comes before.
      from_initial: Whether the average starts at the parameters that ``init`` gets, as
        in tf.keras 2.11 to 2.15, and not at those of the first iteration.

    Returns:
      A transformation that needs ``params`` at every update. Get the average with
      [`finalize`][rmsprop_optax.finalize].

    Raises:
      ValueError: For a value out of its range, or ``params=None`` at an update.
      TypeError: For a frequency that is not an integer.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.average_params(decay=0.5)
      >>> params = jnp.array(0.0)
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     update, state = tx.update(jnp.array(1.0), state, params)
      ...     params = params + update
      >>> print(params, state.ema)
      2.0 1.5

    References:
      Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992;
      Keras 3, `keras/src/optimizers/base_optimizer.py` (`use_ema`).
    """
    check_closed_decay("decay", decay)
    check_whole_number(
        "gradient_accumulation_steps", gradient_accumulation_steps, least=1
    )
    check_flag("from_initial", from_initial)
    every_k = gradient_accumulation_steps
    if overwrite_frequency is not None:
        check_whole_number("overwrite_frequency", overwrite_frequency, least=1)

    def init_fn(params: PyTree) -> AverageParamsState:
        check_parameters(params)
        ema = jax.tree.map(_copy, params, is_leaf=is_leaf)
        return AverageParamsState(count=jnp.zeros([], jnp.int32), ema=ema)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, AverageParamsState]:
        check_has_params(params, "The average of the parameters")
        iteration = state.count // every_k
        beta = decay if from_initial else jnp.where(iteration == 0, 0.0, decay)
        beta = as_number(beta)

        def rule(u: jax.Array, ema: jax.Array, p: jax.Array) -> tuple[jax.Array, ...]:
            wide = cast(p, common_dtype(p.dtype, u.dtype))
            new = (wide + u).astype(p.dtype).astype(ema.dtype)
            ema = rules.average(new, ema, real_like(beta, ema))
            if overwrite_frequency is None:
                return u, ema
            overwrites = iteration % overwrite_frequency == overwrite_frequency - 1
            step = sharded_like(ema - cast(p, ema.dtype), u)
            return jnp.where(overwrites, step, u), ema

        updates, ema = map_moments(rule, updates, state.ema, params=params)
        count = next_count(state.count, _period(every_k, overwrite_frequency))
        return updates, AverageParamsState(count=count, ema=ema)

    return check_states(optax.GradientTransformation(init_fn, update_fn))


def _period(every_k: Count, overwrite_frequency: Count | None) -> Any:
    """The calls from one overwriting to the next; 1 if none comes in an int32."""
    most = jnp.iinfo(jnp.int32).max // every_k
    if overwrite_frequency is None:
        return 1
    comes = overwrite_frequency < most
    return jnp.where(comes, every_k * jnp.minimum(overwrite_frequency, most), 1)


def _copy(p: Any) -> jax.Array | None:
    """A parameter in float32 or wider, in memory of its own; zeros for a shape alone."""
    if p is None:
        return None
    dtype = wide_dtype(jnp.result_type(p))
    if isinstance(p, jax.ShapeDtypeStruct):
        return jnp.zeros_like(p, dtype)
    return jnp.array(p, dtype)


def finalize(params: PyTree, opt_state: PyTree) -> PyTree:
    """The parameters to evaluate and to keep: their average, where there is one.

    Keras's ``finalize_variable_values``. Looks for the average anywhere in
    ``opt_state``, in chains, wrappers, masks and partitions; a parameter that is not
    averaged, or not yet, comes back as it is. Training can go on from ``params``.

    Args:
      params: The parameters, such as ``nnx.state(model, nnx.Param)`` of an NNX model.
      opt_state: The optimizer state beside them, such as ``optimizer.opt_state``.

    Returns:
      A tree like ``params``, of the same dtypes.

    Raises:
      ValueError: For parameters that the state was not made for, or swapped arguments.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.rmsprop(0.1, use_ema=True, ema_momentum=0.5)
      >>> params = jnp.array(1.0)
      >>> updates, opt_state = tx.update(jnp.array(1.0), tx.init(params), params)
      >>> print(rmsprop_optax.finalize(params + updates, opt_state))
      0.6837724
    """
    if find_states(params, AverageParamsState):
        raise ValueError(
            "`params` holds an optimizer state: call `finalize(params, opt_state)`, in "
            "this order."
        )
    check_has_classes(opt_state)
    averages = find_states(opt_state, AverageParamsState)
    if not averages:
        return params
    found = unbox(params)
    for _, state in averages:
        found = _replace_averaged(found, unbox(state))
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(found))


def _replace_averaged(params: PyTree, state: AverageParamsState) -> PyTree:
    started = state.count > 0

    def pick(ema: Any, p: PyTree) -> PyTree:
        if _is_absent(ema):
            return p
        if jnp.shape(ema) != jnp.shape(p):
            raise ValueError("a shape differs")
        return jnp.where(started, ema.astype(jnp.result_type(p)), p)

    try:
        return jax.tree.map(pick, state.ema, params, is_leaf=_is_absent)
    except ValueError as error:
        raise ValueError(
            "`params` does not have the tree of the parameters that the average in "
            f"`opt_state` is of: {_shapes(params)} against {_shapes(state.ema)}."
        ) from error


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: list(getattr(x, "shape", ())), tree)


def _is_absent(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)
