"""An update that runs only where a condition holds, such as that gradients are finite."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._axes import bound_axes, sharded_like
from rmsprop_optax._foundation._dtypes import cast, common_dtype
from rmsprop_optax._foundation._trees import (
    is_gradient_leaf,
    is_inexact,
    is_leaf,
    rebuild,
    zeros_like,
)
from rmsprop_optax._foundation._types import AxisName, PyTree
from rmsprop_optax.wrappers._precision import keep_types

Update = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


class Outcome(NamedTuple):
    """The result of `cond_update`.

    Attributes:
      updates: The updates; zeros where the condition does not hold.
      unused: The operands; zeros where the condition holds.
      state: The new state; the old one where the condition does not hold.
    """

    updates: PyTree
    unused: PyTree
    state: PyTree


def cond_update(
    condition: jax.Array,
    update: Update,
    operands: PyTree,
    state: PyTree,
    combine: Callable[[PyTree], PyTree] | None = None,
) -> Outcome:
    """``update(operands, state)`` where ``condition`` holds, else zeros and ``state``.

    With ``combine`` the operands of the update are ``combine(operands)``. It is cheap,
    and the condition holds seldom; without it, nearly always. A new state keeps the
    dtypes and shardings of the old one.

    Where the condition does not hold, 0 * inf leaves no NaN behind. On a CPU this is a
    branch: the one that is not taken costs nothing. XLA gives the outputs of a branch
    memory of their own, and for GPU it copies an operand that a branch returns as it is.
    So what holds nearly always is a choice in the loop of the update on GPU and TPU, and
    on a GPU both branches combine. Rows are branches everywhere: a choice between two
    tables would copy them.
    """
    update = jax.jit(update)  # traced once for all forms
    is_dense = not any(map(is_gradient_leaf, jax.tree.leaves(operands, is_leaf=is_leaf)))
    branch = partial(_branch, update)
    if combine is None:
        forms = {"default": partial(_select, update), "cpu": branch}
    else:
        inside = partial(_branch, update, combine=combine)
        forms = {"default": lambda c, x, s: branch(c, combine(x), s)}
        forms |= dict.fromkeys(("cuda", "rocm"), inside)
    if not is_dense:
        given = operands if combine is None else combine(operands)
        return branch(condition, given, state)
    return jax.lax.platform_dependent(condition, operands, state, **forms)


def _select(
    update: Update, condition: jax.Array, operands: PyTree, state: PyTree
) -> Outcome:
    """The update, and a choice of each of its results."""
    updates, new = update(operands, state)
    flat, treedef = jax.tree.flatten(operands, is_leaf=is_leaf)
    chosen = [
        None if u is None else jnp.where(condition, _like(x, u), 0)
        for x, u in zip(flat, treedef.flatten_up_to(updates), strict=True)
    ]
    unused = [None if x is None else jnp.where(condition, 0, x) for x in flat]
    state = jax.tree.map(partial(jnp.where, condition), keep_types(state, new), state)
    return Outcome(treedef.unflatten(chosen), treedef.unflatten(unused), state)


def _like(operand: Any, update: Any) -> Any:
    return sharded_like(update, operand) if _fits(operand, update) else update


def _branch(
    update: Update,
    condition: jax.Array,
    operands: PyTree,
    state: PyTree,
    combine: Callable[[PyTree], PyTree] = lambda operands: operands,
) -> Outcome:
    """The update in a branch."""
    like = jax.eval_shape(combine, operands)
    shapes, _ = jax.eval_shape(update, like, state)
    treedef = jax.tree.structure(like, is_leaf=is_leaf)
    expected = treedef.flatten_up_to(shapes)

    # An update reuses the buffer of its operand where it fits there. Then the branch
    # that is not taken allocates no zeros, and XLA copies nothing.
    def taken(operands: PyTree, state: PyTree) -> tuple[list[Any], list[Any], PyTree]:
        given = combine(operands)
        updates, new = update(given, state)
        pairs = list(zip(*map(treedef.flatten_up_to, (given, updates)), strict=True))
        reused = [
            sharded_like(cast(u, x.dtype), x) if _fits(x, u) else _zeros_like(x)
            for x, u in pairs
        ]
        other = [None if _fits(x, u) else u for x, u in pairs]
        return reused, other, keep_types(state, new)

    def skipped(operands: PyTree, state: PyTree) -> tuple[list[Any], list[Any], PyTree]:
        flat = treedef.flatten_up_to(combine(operands))
        pairs = zip(flat, expected, strict=True)
        return flat, [None if _fits(x, u) else _zeros_like(u) for x, u in pairs], state

    reused, other, state = jax.lax.cond(condition, taken, skipped, operands, state)
    updates, unused = [], []
    for x, y, u in zip(reused, other, expected, strict=True):
        fits = _fits(x, u)
        updates.append(cast(jnp.where(condition, x, 0), u.dtype) if fits else y)
        unused.append(jnp.where(condition, 0, x) if fits else x)
    return Outcome(rebuild(like, updates), rebuild(like, unused), state)


def _zeros_like(leaf: Any) -> Any:
    """Zeros with the sharding of ``leaf`` too, which JAX keeps in `jax.set_mesh` only."""
    return jax.tree.map(sharded_like, zeros_like(leaf), leaf)


def _fits(operand: Any, update: Any) -> bool:
    """Whether both are arrays, and the operand's buffer can hold the update as it is."""
    if is_leaf(operand) or is_leaf(update) or operand.shape != update.shape:
        return False
    return common_dtype(operand.dtype, update.dtype) == operand.dtype


def all_finite(updates: PyTree, axis_name: AxisName | None = None) -> jax.Array:
    """A boolean scalar: no leaf holds an infinity or a NaN, on any device of an axis."""
    leaves = [leaf for leaf in jax.tree.leaves(updates) if is_inexact(leaf)]
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
    here = jnp.all(jnp.stack(finite)) if finite else jnp.asarray(True)
    if axis_name is None:
        return here
    return jax.lax.pmin(here.astype(jnp.int32), bound_axes(axis_name)) == 1
