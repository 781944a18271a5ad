"""An update that runs only where a condition holds, such as that gradients are finite."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._axes import bound_axes, sharded_like
from rmsprop_optax._foundation._dtypes import cast, common_dtype
from rmsprop_optax._foundation._trees import is_inexact, is_leaf, rebuild, zeros_like
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
    condition: jax.Array, update: Update, operands: PyTree, state: PyTree
) -> Outcome:
    """``update(operands, state)`` where ``condition`` holds, else zeros and ``state``.

    A branch, not a product with 0 or 1: the branch that is not taken costs nothing, and
    0 * inf leaves no NaN behind. A new state keeps the dtypes and shardings of the
    old one.
    """
    shapes, _ = jax.eval_shape(update, operands, state)
    flat, treedef = jax.tree.flatten(operands, is_leaf=is_leaf)
    expected = treedef.flatten_up_to(shapes)

    # An update reuses the buffer of its operand where it fits there. Then the branch
    # that is not taken allocates no zeros, and XLA copies nothing.
    def taken(flat: list[Any], state: PyTree) -> tuple[list[Any], list[Any], PyTree]:
        updates, new = update(treedef.unflatten(flat), state)
        pairs = list(zip(flat, treedef.flatten_up_to(updates), strict=True))
        reused = [
            sharded_like(cast(u, x.dtype), x) if _fits(x, u) else _zeros_like(x)
            for x, u in pairs
        ]
        other = [None if _fits(x, u) else u for x, u in pairs]
        return reused, other, keep_types(state, new)

    def skipped(flat: list[Any], state: PyTree) -> tuple[list[Any], list[Any], PyTree]:
        pairs = zip(flat, expected, strict=True)
        return flat, [None if _fits(x, u) else _zeros_like(u) for x, u in pairs], state

    reused, other, state = jax.lax.cond(condition, taken, skipped, flat, state)
    updates, unused = [], []
    for x, y, u in zip(reused, other, expected, strict=True):
        fits = _fits(x, u)
        updates.append(cast(jnp.where(condition, x, 0), u.dtype) if fits else y)
        unused.append(jnp.where(condition, 0, x) if fits else x)
    return Outcome(rebuild(operands, updates), rebuild(operands, unused), state)


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
