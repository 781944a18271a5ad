"""The one map that carries every leaf to its rule and back (see README.md here)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._dtypes import cast, real_dtype, wide_dtype
from rmsprop_optax._foundation._row_slices import RowSlices, RowTotals, values_of
from rmsprop_optax._foundation._trees import is_leaf, rebuild
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax._foundation._validation import (
    aligned,
    check_accumulates,
    check_has_rows,
    check_holds,
)
from rmsprop_optax.leaves._blocks import blocks_of
from rmsprop_optax.leaves._rows import (
    add_rows,
    keep_padding,
    map_values,
    put_rows,
    take_rows,
)
from rmsprop_optax.leaves._stored import keep_moment, open_moment

MOMENTS = "parameters that the optimizer state was made for"
PARAMS = "parameters"


def leaf_dtype(leaf: Any) -> jnp.dtype:
    """The dtype of an update leaf, which may be rows, or a Python number."""
    values = values_of(leaf)
    return values.dtype if isinstance(values, jax.Array) else jnp.result_type(values)


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


def add_leaves(updates: PyTree, totals: PyTree) -> PyTree:
    """``totals`` with each gradient added, in the dtype of the total."""

    def add(path: str, g: Any, total: Any) -> Any:
        if g is None:
            return total
        check_accumulates(path, g, total)
        if isinstance(total, RowTotals):
            return add_rows(total, g)
        return (_widen_moment(total, _widen(g, total)) + _widen(g, total)).astype(
            total.dtype
        )

    rows = aligned(updates, totals, what=MOMENTS)
    return rebuild(totals, [add(path, g, total) for path, (g, total) in rows])


def wide_leaves(updates: PyTree) -> list[jax.Array]:
    """The gradients there are, in float32 or wider: for a rule on all of them."""
    leaves = jax.tree.leaves(updates, is_leaf=is_leaf)
    return [_widen(values_of(g)) for g in leaves if g is not None]


def _widen(g: Any, *held: jax.Array) -> jax.Array:
    dtype = wide_dtype(leaf_dtype(g))
    for moment in held:
        dtype = jnp.promote_types(dtype, real_dtype(moment.dtype))
    return cast(g, dtype)


def _walk(
    rule: Callable[..., tuple[jax.Array, ...]],
    path: str,
    g: Any,
    held: list[Any],
    read: tuple[Any, ...],
) -> tuple[Any, ...]:
    if g is None:
        return None, *held
    if isinstance(g, RowSlices):
        return _walk_rows(rule, path, g, held, read)
    return _meet(rule, path, g, held, read)


def _walk_rows(
    rule: Callable[..., tuple[jax.Array, ...]],
    path: str,
    g: RowSlices,
    held: list[Any],
    read: tuple[Any, ...],
) -> tuple[Any, ...]:
    """The rows of ``g`` alone meet the rule; all others stay what they are."""
    check_has_rows(path, held)
    rows = [take_rows(m, g) for m in held]
    update, *new = _meet(rule, path, g.values, rows, tuple(take_rows(p, g) for p in read))
    kept = (put_rows(m, g, rows) for m, rows in zip(held, new, strict=True))
    return g.with_values(keep_padding(update, g)), *kept


def _meet(
    rule: Callable[..., tuple[jax.Array, ...]],
    path: str,
    g: Any,
    held: list[Any],
    read: tuple[Any, ...],
) -> tuple[Any, ...]:
    """A dense leaf meets its rule: wide on the way in, as narrow as before afterwards."""
    blocks = blocks_of(held)
    moments = [open_moment(m, blocks) for m in held]
    wide = blocks.split(_widen(g, *moments))
    weights = (blocks.split(cast(p, leaf_dtype(p))) for p in read)
    update, *new = rule(wide, *(_widen_moment(m, wide) for m in moments), *weights)
    for old, moment in zip(moments, new, strict=True):
        check_holds(path, old, moment)
    kept = (keep_moment(m, moment, blocks) for m, moment in zip(held, new, strict=True))
    return narrow(blocks.join(update), leaf_dtype(g)), *kept


def _widen_moment(moment: jax.Array, wide: jax.Array) -> jax.Array:
    return cast(moment, jnp.promote_types(moment.dtype, real_dtype(wide.dtype)))


def narrow(update: Any, dtype: jnp.dtype) -> Any:
    """``update`` in the gradient's dtype; a complex one stays complex."""
    if isinstance(update, RowSlices):
        return map_values(lambda values: narrow(values, dtype), update)
    if jnp.iscomplexobj(update) and not jnp.issubdtype(dtype, jnp.complexfloating):
        return update
    return cast(update, dtype)
