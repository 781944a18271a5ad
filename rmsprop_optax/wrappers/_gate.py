"""An update that is made, or not made at all: the branch that wrappers share."""

from collections.abc import Callable

import jax

from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.leaves import no_rows


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
        return jax.tree.map(no_rows, made, is_leaf=is_leaf), hold()

    return jax.lax.cond(condition, make, held)
