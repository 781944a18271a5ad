"""An update that is made, or not made at all: the branch that wrappers share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._dtypes import cast
from rmsprop_optax._foundation._trees import is_leaf, rebuild
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.leaves import no_rows

Make = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
      updates: Those that were made, or zeros.
      left: What was given, or zeros where updates were made of it.
      state: The one that was made, or the one before.
    """

    updates: PyTree
    left: PyTree
    state: PyTree


def make_or_hold(
    condition: jax.Array, make: Make, given: PyTree, state: PyTree
) -> Outcome:
    """``make(given, state)`` (updates, state) where ``condition`` holds, else nothing.

    A branch, not a product with 0 or 1: the update that is not made costs nothing, and
    0 * inf can't leave a NaN behind. An update lies where that of which it was made lay,
    so that XLA needs no memory for zeros in the other branch, and copies nothing.
    """
    shapes, _ = jax.eval_shape(make, given, state)
    flat, treedef = jax.tree.flatten(given, is_leaf=is_leaf)
    expected = treedef.flatten_up_to(shapes)

    def made(flat: list[Any], state: PyTree) -> tuple[list[Any], list[Any], PyTree]:
        updates, state = make(treedef.unflatten(flat), state)
        pairs = list(zip(flat, treedef.flatten_up_to(updates), strict=True))
        places = [cast(u, x.dtype) if _fits(x, u) else no_rows(x) for x, u in pairs]
        return places, [None if _fits(x, u) else u for x, u in pairs], state

    def held(flat: list[Any], state: PyTree) -> tuple[list[Any], list[Any], PyTree]:
        pairs = zip(flat, expected, strict=True)
        return flat, [None if _fits(x, u) else no_rows(u) for x, u in pairs], state

    places, beside, state = jax.lax.cond(condition, made, held, flat, state)
    updates, left = [], []
    for place, other, u in zip(places, beside, expected, strict=True):
        fits = _fits(place, u)
        updates.append(cast(jnp.where(condition, place, 0), u.dtype) if fits else other)
        left.append(jnp.where(condition, 0, place) if fits else place)
    return Outcome(rebuild(given, updates), rebuild(given, left), state)


def _fits(place: Any, update: Any) -> bool:
    """Whether both are arrays, and the place can hold the update as it is."""
    if is_leaf(place) or is_leaf(update) or place.shape != update.shape:
        return False
    return jnp.promote_types(place.dtype, update.dtype) == place.dtype
