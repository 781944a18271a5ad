"""The exponential moving average of the parameters, and their overwriting by it."""

from __future__ import annotations

from collections.abc import Callable
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
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._schedules import as_decay, next_count
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._state_fields import register, state_fields
from rmsprop_optax._foundation._state_leaves import check_has_classes
from rmsprop_optax._foundation._trees import find_states, is_leaf, unbox
from rmsprop_optax._foundation._types import Count, PyTree, Scalar, Schedule


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


@recorded
def average_params(
    decay: Scalar | Schedule = 0.99,
    overwrite_frequency: Count | None = None,
    gradient_accumulation_steps: Count = 1,
    from_initial: bool = False,
    per_update: bool = False,
) -> optax.GradientTransformation:
    """Averages the parameters that the update will make, and may overwrite them.

    $$a_t = β a_{t-1} + (1 - β) (p + u)$$

    While $i = 0$, $β$ counts as 0, unless ``from_initial``. Whenever $i + 1$ is a
    multiple of ``overwrite_frequency``, the update becomes $a_t - p$, so that the
    parameter becomes its average. The clock is ``i = t // k``, with t the calls from 0.
    It comes last in a chain; $p + u$ is the sum that `optax.apply_updates` computes, in
    the dtype of $p$.

    Args:
      decay: $β$, in [0, 1]; or a function of $i$ that returns it. TensorFlow's warm-up is
        ``lambda i: jnp.minimum(0.9999, (1 + i) / (10 + i))``. With
        ``lambda i: i / (i + 1)`` the average is the mean of all.
      overwrite_frequency: In iterations, at least 1; None: never.
      gradient_accumulation_steps: k, the calls of an iteration, at least 1, where an
        accumulation comes before.
      from_initial: Whether the average starts at the parameters that ``init`` gets, as
        in TensorFlow and tf.keras 2.11 to 2.15, and not at those of the first iteration.
      per_update: Whether the average moves at the last call of an iteration only, and not
        at every call, as in Keras.

    Returns:
      A transformation that needs ``params`` at every update. Get the average with
      [`finalize`][rmsprop_optax.finalize].

    Raises:
      ValueError: For a value out of its range, or ``params=None`` at an update.
      TypeError: For a frequency that is not an integer, or a schedule that returns no
        real scalar.

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
    if not callable(decay):
        check_closed_decay("decay", decay)
    rate = as_decay("decay", decay)
    check_whole_number(
        "gradient_accumulation_steps", gradient_accumulation_steps, least=1
    )
    check_flag("from_initial", from_initial)
    every_k = gradient_accumulation_steps
    check_flag("per_update", per_update)
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
        moves = state.count % every_k == every_k - 1
        beta = as_number(rate(iteration))
        if not from_initial:
            beta = jnp.where(iteration == 0, 0.0, beta)
        if per_update:
            beta = jnp.where(moves, beta, 1.0)

        def rule(u: jax.Array, ema: jax.Array, p: jax.Array) -> tuple[jax.Array, ...]:
            wide = cast(p, common_dtype(p.dtype, u.dtype))
            new = (wide + u).astype(p.dtype).astype(ema.dtype)
            ema = rules.average(new, ema, real_like(beta, ema))
            if overwrite_frequency is None:
                return u, ema
            overwrites = iteration % overwrite_frequency == overwrite_frequency - 1
            if per_update:
                overwrites &= moves
            step = sharded_like(ema - cast(p, ema.dtype), u)
            return jnp.where(overwrites, step, u), ema

        updates, ema = map_moments(rule, updates, state.ema, params=params)
        count = next_count(state.count, _period(every_k, overwrite_frequency))
        return updates, AverageParamsState(count=count, ema=ema)

    return check_states(optax.GradientTransformation(init_fn, update_fn))


def _period(every_k: Count, overwrite_frequency: Count | None) -> Any:
    """After how many calls all repeats, but for overwriting that an int32 can't count."""
    if overwrite_frequency is None:
        return every_k
    fits = overwrite_frequency < jnp.iinfo(jnp.int32).max // every_k
    return every_k * jnp.where(fits, overwrite_frequency, 1)


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


def with_average(opt_state: PyTree, average: PyTree, count: int) -> PyTree:
    """A state that goes on from an average that was made elsewhere.

    The counterpart of [`finalize`][rmsprop_optax.finalize]: puts the average wherever
    ``opt_state`` has one. `interchange` reads averages of other frameworks.

    Args:
      opt_state: A state with that of [`average_params`][rmsprop_optax.average_params] in
        it.
      average: A tree like the parameters.
      count: How many calls it has seen, at least 1. A schedule of the decay goes on from
        it.

    Returns:
      A state like ``opt_state``.

    Raises:
      ValueError: For a state without an average, or an average of other parameters.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.rmsprop(use_ema=True)
      >>> params = {"w": jnp.ones(2)}
      >>> opt_state = tx.init(params)
      >>> average = {"w": jnp.array([0.5, 0.25])}
      >>> opt_state = rmsprop_optax.with_average(opt_state, average, count=1000)
      >>> print(rmsprop_optax.finalize(params, opt_state)["w"])
      [0.5  0.25]
    """
    check_whole_number("count", count, least=1)
    check_has_classes(opt_state)
    if not find_states(opt_state, AverageParamsState):
        raise ValueError(
            "`opt_state` has no average of the parameters: build the transformation with "
            "`use_ema=True` or `average_params`."
        )

    def is_average(node: Any) -> bool:
        return isinstance(node, AverageParamsState)

    def put(node: Any) -> Any:
        if not is_average(node):
            return node
        ema = _pair(lambda ema, new: _like(new, ema), node, unbox(average), "average")
        return AverageParamsState(_like(count, node.count), ema)

    found = jax.tree.map(put, unbox(opt_state), is_leaf=is_average)
    return jax.tree.unflatten(jax.tree.structure(opt_state), jax.tree.leaves(found))


def _like(new: Any, old: jax.Array) -> jax.Array:
    return jax.device_put(jnp.array(new, old.dtype), getattr(old, "sharding", None))


def _replace_averaged(params: PyTree, state: AverageParamsState) -> PyTree:
    started = state.count > 0

    def pick(ema: jax.Array, p: Any) -> jax.Array:
        return jnp.where(started, ema.astype(jnp.result_type(p)), p)

    return _pair(pick, state, params, "params", absent=lambda ema, p: p)


def _pair(
    fn: Callable[[Any, Any], Any],
    state: AverageParamsState,
    tree: PyTree,
    name: str,
    absent: Callable[[Any, Any], Any] = lambda ema, p: ema,
) -> PyTree:
    """``fn`` of each average and its parameter in ``tree``, the argument ``name``."""

    def checked(ema: Any, p: PyTree) -> PyTree:
        if _is_absent(ema):
            return absent(ema, p)
        if jnp.shape(ema) != jnp.shape(p):
            raise ValueError("a shape differs")
        return fn(ema, p)

    try:
        return jax.tree.map(checked, state.ema, tree, is_leaf=_is_absent)
    except ValueError as error:
        raise ValueError(
            f"`{name}` does not have the tree of the parameters that the average in "
            f"`opt_state` is of: {_shapes(tree)} against {_shapes(state.ema)}."
        ) from error


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: list(getattr(x, "shape", ())), tree)


def _is_absent(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)
