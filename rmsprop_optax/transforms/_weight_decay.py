"""Decoupled weight decay, and masks that say which parameters decay."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._alignment import check_has_params
from rmsprop_optax._foundation._checks import (
    check_mask,
    check_parameter_mask,
    mask_of,
)
from rmsprop_optax._foundation._dtypes import (
    as_number,
    cast,
    common_dtype,
    multiplied,
    real_like,
)
from rmsprop_optax._foundation._leafwise import map_leaves
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._schedules import as_decay, as_rate, next_count
from rmsprop_optax._foundation._trees import map_with_keys, path_of
from rmsprop_optax._foundation._types import (
    LearningRate,
    Mask,
    PyTree,
    Scalar,
    Schedule,
)


class DecayWeightsState(NamedTuple):
    """State of [`decay_weights`][rmsprop_optax.decay_weights] with a schedule.

    Attributes:
      count: Updates so far, int32: the argument of the schedule.
    """

    count: jax.Array


@recorded
def decay_weights(
    weight_decay: Scalar | Schedule,
    learning_rate: LearningRate = 1.0,
    mask: Mask | None = None,
) -> optax.GradientTransformation:
    """Shrinks the parameters beside the update: $u ← u - η_t λ p$.

    Decoupled: it comes last, after the learning rate and the momentum, so that the decay
    is neither normalized nor accumulated. $p$ is the parameter before the step.
    (`optax.add_decayed_weights` *adds* $λ p$ to what comes in, for use before the
    learning rate.)

    Args:
      weight_decay: $λ$: a number of at least 0, or a schedule.
      learning_rate: $η$, of any kind that
        [`scale_by_learning_rate`][rmsprop_optax.scale_by_learning_rate] takes. A live
        callable is read here too.
      mask: Which parameters decay: a tree of booleans that is a prefix of the
        parameters, or a function that makes one from them; see
        [`exclude_paths`][rmsprop_optax.exclude_paths]. None: all.

    Returns:
      A transformation that needs ``params`` at every update. It has a state only with a
      schedule.

    Raises:
      ValueError: For a negative number, or ``params=None`` at an update.
      TypeError: For a mask that is neither a tree of booleans nor a function.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.decay_weights(0.1, learning_rate=0.5)
      >>> params = jnp.array([2.0, -4.0])
      >>> print(tx.update(jnp.zeros(2), tx.init(params), params)[0])
      [-0.1  0.2]

    References:
      Loshchilov and Hutter, [Decoupled Weight Decay
      Regularization](https://arxiv.org/abs/1711.05101), 2019; Keras 3, `weight_decay`.
    """
    decay = as_decay("weight_decay", weight_decay)
    rate = as_rate("learning_rate", learning_rate)
    if mask is not None:
        check_parameter_mask("mask", mask)
    counts = rate.counts or decay.counts

    def init_fn(params: PyTree) -> PyTree:
        del params
        if not counts:
            return optax.EmptyState()
        return DecayWeightsState(count=jnp.zeros([], jnp.int32))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        check_has_params(params, "Weight decay")
        count = state.count if counts else None
        factor = as_number(rate(count) * decay(count))

        def rule(u: jax.Array, p: jax.Array) -> jax.Array:
            dtype = common_dtype(p.dtype, u.dtype)
            return u - multiplied(cast(p, dtype), real_like(factor, u))

        updates = map_leaves(rule, updates, params=params)
        if count is None:
            return updates, state
        return updates, DecayWeightsState(count=next_count(count))

    return masked_by_params(
        optax.GradientTransformation(init_fn, update_fn), "mask", mask
    )


def masked_by_params(
    inner: optax.GradientTransformation, name: str, mask: Mask | None
) -> optax.GradientTransformation:
    """`optax.masked` with a mask of the parameters, the caller's argument ``name``.

    Parameters have no missing leaves. Optax calls the mask with the updates, where a leaf
    without a gradient is None.
    """
    if mask is None:
        return inner

    def for_params(params: PyTree) -> optax.GradientTransformation:
        return optax.masked(inner, _mask_of(params, name, mask))

    def init_fn(params: PyTree) -> PyTree:
        return for_params(params).init(params)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        check_has_params(params, "Weight decay")
        return for_params(params).update(updates, state, params)

    return optax.GradientTransformation(init_fn, update_fn)


def _mask_of(params: PyTree, name: str, mask: Mask) -> PyTree:
    """The mask as a tree, whose leaves are booleans and fit the parameters."""
    found = mask_of(mask, params)
    if jax.tree.leaves(found) or jax.tree.leaves(params):
        check_mask(name, found)
    try:
        return jax.tree.broadcast(found, params)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be the tree of the parameters, or a prefix of it, with "
            f"booleans, got {found!r}: {error}"
        ) from error


def exclude_paths(*patterns: str) -> Callable[[PyTree], PyTree]:
    """A mask that is False where the path of a parameter matches one of ``patterns``.

    Each pattern is a regular expression that is searched for anywhere in the path, whose
    keys are joined by slashes, as in ``encoder/0/bias``. Keras's
    ``exclude_from_weight_decay(var_names=[...])`` searches the last part alone, which is
    ``gamma`` and ``beta`` for a norm: write ``exclude_paths("bias$", "scale$")``.

    Args:
      *patterns: Regular expressions, at least one.

    Returns:
      A function from a tree to a tree of booleans, for every ``mask`` argument.

    Raises:
      TypeError: For no pattern, or one that is not a string.
      ValueError: For one that is not a regular expression.

    Examples:
      >>> import rmsprop_optax
      >>> mask = rmsprop_optax.exclude_paths("bias", "^norm/")
      >>> mask({"dense": {"bias": 0.0, "kernel": 1.0}, "norm": {"scale": 1.0}})
      {'dense': {'bias': False, 'kernel': True}, 'norm': {'scale': False}}
    """
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            f"`patterns` must be regular expressions, at least one, got {patterns!r}: "
            'for example `exclude_paths("bias", "norm")`.'
        )
    try:
        for pattern in patterns:
            re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"`patterns`: {error.pattern!r} is not a regular expression: {error}."
        ) from error

    def mask(tree: PyTree) -> PyTree:
        def keeps(path: tuple[Any, ...], leaf: Any) -> bool:
            del leaf
            return not any(re.search(pattern, path_of(path)) for pattern in patterns)

        return map_with_keys(keeps, tree)

    return mask
