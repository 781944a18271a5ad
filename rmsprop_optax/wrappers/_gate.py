"""An update that is made, or not made at all: the branch that wrappers share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._types import PyTree


def make_or_hold(
    condition: jax.Array,
    make: Callable[[], tuple[PyTree, PyTree]],
    hold: Callable[[], PyTree],
) -> tuple[PyTree, PyTree]:
    """``make()`` (updates, state) where ``condition`` holds, else zeros and ``hold()``.

    A branch, not a product with 0 or 1: the update that is not made costs nothing, and
    0 * inf can't leave a NaN behind.
    """
    made, _ = jax.eval_shape(make)

    def held() -> tuple[PyTree, PyTree]:
        return jax.tree.map(jnp.zeros_like, made), hold()

    return jax.lax.cond(condition, make, held)
