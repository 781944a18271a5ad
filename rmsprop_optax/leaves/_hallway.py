"""The one map that carries every leaf to its rule and back (see README.md here)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._trees import rebuild
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax._foundation._validation import aligned, check_holds
from rmsprop_optax.leaves._storage import real_dtype, wide_dtype

MOMENTS = "parameters that the optimizer state was made for"
PARAMS = "parameters"


def leaf_dtype(leaf: Any) -> jnp.dtype:
    """The dtype of an update leaf, which may be a Python number."""
    return jnp.dtype(jnp.result_type(leaf))


def map_moments(
    rule: Callable[..., tuple[jax.Array, ...]],
    updates: PyTree,
    *moments: PyTree,
    params: PyTree = None,
) -> tuple[PyTree, ...]:
    """Carries each leaf to ``rule(g, *moments)``, or ``rule(g, *moments, p)``.

    The rule returns the update and each moment anew; so does this, as trees. The update
    keeps the dtype in which it came, a moment the one in which it is kept.
    """
    rows = aligned(updates, *moments, what=MOMENTS)
    reads: list[tuple[Any, ...]] = [()] * len(rows)
    if params is not None:
        reads = [(p,) for _, (_, p) in aligned(updates, params, what=PARAMS)]
    columns = [
        _walk(rule, path, g, held, read)
        for (path, (g, *held)), read in zip(rows, reads, strict=True)
    ]
    return tuple(
        rebuild(updates, [column[i] for column in columns])
        for i in range(len(moments) + 1)
    )


def map_leaves(
    rule: Callable[..., jax.Array], updates: PyTree, *, params: PyTree = None
) -> PyTree:
    """Carries each leaf to a rule without moments: ``rule(g)``, or ``rule(g, p)``."""
    (updates,) = map_moments(lambda *row: (rule(*row),), updates, params=params)
    return updates


def wide_leaves(updates: PyTree) -> list[jax.Array]:
    """The gradients there are, in float32 or wider: for a rule on all of them."""
    return [_widen(g) for g in jax.tree.leaves(updates)]


def _widen(g: Any, *held: jax.Array) -> jax.Array:
    dtype = wide_dtype(leaf_dtype(g))
    for moment in held:
        dtype = jnp.promote_types(dtype, real_dtype(moment.dtype))
    return jnp.asarray(g, dtype)


def _walk(
    rule: Callable[..., tuple[jax.Array, ...]],
    path: str,
    g: Any,
    held: list[Any],
    read: tuple[Any, ...],
) -> tuple[Any, ...]:
    if g is None:
        return None, *held
    wide = _widen(g, *held)
    weights = (jnp.asarray(p, leaf_dtype(p)) for p in read)
    update, *new = rule(wide, *(_widen_moment(m, wide) for m in held), *weights)
    for old, moment in zip(held, new, strict=True):
        check_holds(path, old, moment)
    kept = (moment.astype(old.dtype) for old, moment in zip(held, new, strict=True))
    return narrow(update, leaf_dtype(g)), *kept


def _widen_moment(moment: jax.Array, wide: jax.Array) -> jax.Array:
    return moment.astype(jnp.promote_types(moment.dtype, real_dtype(wide.dtype)))


def narrow(update: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """``update`` in the gradient's dtype; a complex one stays complex."""
    if jnp.iscomplexobj(update) and not jnp.issubdtype(dtype, jnp.complexfloating):
        return update
    return update.astype(dtype)
