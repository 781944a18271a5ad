"""Applies an elementwise rule to each leaf: alignment, missing gradients and dtypes."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._alignment import (
    MOMENTS,
    PARAMS,
    aligned,
    check_parameters,
)
from rmsprop_optax._foundation._dtypes import (
    cast,
    common_dtype,
    leaf_dtype,
    narrow,
    real_dtype,
    wide_dtype,
)
from rmsprop_optax._foundation._trees import LeafPath, is_leaf, rebuild
from rmsprop_optax._foundation._types import PyTree, Scalar, Tracer


def init_moment(params: PyTree, fill: Scalar = 0.0, *, real: bool = False) -> PyTree:
    """A moment for each parameter: its shape and sharding, its dtype or float32.

    ``real`` moments (of squares) are real for complex parameters too.
    """
    check_parameters(params)

    def init_leaf(p: Any) -> Any:
        if p is None:
            return None
        dtype = wide_dtype(jnp.result_type(p))
        moment = jnp.full_like(p, fill, dtype=real_dtype(dtype) if real else dtype)
        # For a scalar that is `fill` itself: a donated step must not delete that.
        return jnp.array(moment) if moment is fill else moment

    return jax.tree.map(init_leaf, params, is_leaf=is_leaf)


def map_moments(
    rule: Callable[..., tuple[jax.Array, ...]],
    updates: PyTree,
    *moments: PyTree,
    params: PyTree = None,
    beside: PyTree = None,
    moment_shape: Callable[[Any], tuple[int, ...]] = jnp.shape,
    what: str = MOMENTS,
) -> tuple[PyTree, ...]:
    """Applies ``rule(g, *moments)``, or ``rule(g, *moments, p)``, to each leaf.

    ``p`` is a leaf of ``params``, which have the shapes of the updates, or of ``beside``,
    which need not. ``moment_shape`` says which shape a moment has beside a gradient.

    The rule returns the update and the new moments; this returns them as trees. It
    computes in float32, or wider where the gradient or a moment is wider. The update
    keeps the dtype of the gradient, and a moment keeps its own. Where the gradient is
    None the update is None and the moments do not change.
    """
    rows = aligned(updates, *moments, what=what, shape=moment_shape)
    weights: list[tuple[Any, ...]] = [()] * len(rows)
    if params is not None:
        weights = [(p,) for _, p in aligned(updates, params, what=PARAMS)]
    if beside is not None:
        weights = [(x,) for x in jax.tree.leaves(beside, is_leaf=is_leaf)]
    kinds: list[Any] = []
    for leaves in ((*row, *p) for row, p in zip(rows, weights, strict=True)):
        is_traced = all(isinstance(x, Tracer) for x in leaves)
        kinds.append(tuple(map(jax.typeof, leaves)) if is_traced else None)
    counts = Counter(kind for kind in kinds if kind is not None)
    plain = partial(_apply, rule)
    # Tracing a rule again for each of 1,000 leaves took most of the time of tracing a
    # step. A leaf whose type no other has, and one that is not traced at all, is computed
    # as it is: a call costs more there than it saves.
    traced = jax.jit(plain, inline=True)
    columns = []
    for index, ((g, *old), p) in enumerate(zip(rows, weights, strict=True)):
        path = LeafPath(updates, index)
        apply = traced if counts[kinds[index]] > 1 else plain
        try:
            update, *new = apply(g, old, p)
        except Exception as error:
            error.args = (f"Gradient '{path}': {error}",)
            raise
        if g is not None and not all(map(_can_hold, old, new)):
            raise TypeError(
                f"Gradient '{path}' is {leaf_dtype(g)}, but its moment is real: the "
                "parameter was real when `tx.init` was called. Take the gradient's real "
                "part, or make the parameter complex."
            )
        columns.append((update, *new))
    return tuple(
        rebuild(updates, [column[i] for column in columns])
        for i in range(len(moments) + 1)
    )


def map_leaves(
    rule: Callable[..., jax.Array], updates: PyTree, *, params: PyTree = None
) -> PyTree:
    """Applies a rule without moments to each leaf: ``rule(g)``, or ``rule(g, p)``."""
    (updates,) = map_moments(lambda *row: (rule(*row),), updates, params=params)
    return updates


def wide_leaves(updates: PyTree) -> list[jax.Array]:
    """The gradients that are not None, in float32 or wider: for a rule on all of them."""
    leaves = jax.tree.leaves(updates, is_leaf=is_leaf)
    return [cast(g, wide_dtype(leaf_dtype(g))) for g in leaves if g is not None]


def _apply(
    rule: Callable[..., tuple[jax.Array, ...]],
    g: Any,
    old: list[Any],
    params: tuple[Any, ...],
) -> tuple[Any, ...]:
    if g is None:
        return None, *old
    dtype = leaf_dtype(g)
    wide = wide_dtype(dtype)
    for moment in old:
        wide = common_dtype(wide, real_dtype(moment.dtype))
    moments = (cast(m, common_dtype(m.dtype, real_dtype(wide))) for m in old)
    weights = (cast(p, leaf_dtype(p)) for p in params)
    update, *new = rule(cast(g, wide), *moments, *weights)
    pairs = zip(old, new, strict=True)
    stored = (cast(x, m.dtype) if _can_hold(m, x) else x for m, x in pairs)
    return narrow(update, dtype), *stored


def _can_hold(old: Any, new: Any) -> bool:
    """Whether a moment can hold a value: a real one can't hold a complex value."""
    return jnp.iscomplexobj(old) or not jnp.iscomplexobj(new)
