"""Which parameter a leaf of an optimizer state belongs to, and what the leaf is called.

Transformations keep a moment in the parameters' own tree. So the path of a moment ends
with the path of its parameter, and the last named field before that is its name.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._trees import Keys, leaves_with_keys
from rmsprop_optax._foundation._types import PyTree

SECOND_MOMENTS = frozenset({"nu", "nu_max", "v", "sum_of_squares", "e_g", "e_x"})
"""Fields of Optax's states, and of ours, that hold running means or sums of squares."""

POSITIVE = SECOND_MOMENTS | {"scales"}
"""Fields of numbers that one divides by: they are padded with 1."""


class Owner(NamedTuple):
    """What the path of a state leaf says about it.

    Attributes:
      keys: The path of the parameter.
      field: The last named field before it, such as ``nu``; "" where there is none.
    """

    keys: Keys
    field: str


def parameter_shapes(params: PyTree) -> dict[Keys, tuple[int, ...] | None]:
    """The shape of every parameter by its path; None for what is no array."""
    return {
        keys: jnp.shape(leaf) if hasattr(leaf, "shape") or jnp.isscalar(leaf) else None
        for keys, leaf in leaves_with_keys(params)
    }


def check_has_classes(opt_state: PyTree) -> None:
    """That a state has the classes that Optax gave it, which say what is in it."""

    def is_state(node: Any) -> bool:
        return hasattr(node, "_fields")

    leaves = jax.tree.leaves(opt_state, is_leaf=is_state)
    if leaves and not any(map(is_state, leaves)):
        raise ValueError(
            "`opt_state` is not the state of an Optax transformation, or has lost its "
            "classes, as in `nnx.state(optimizer)`: give `optimizer.opt_state`. It is a "
            f"{type(opt_state).__name__}."
        )


def owner_of(keys: Keys, params: Collection[Keys]) -> Owner | None:
    """The parameter whose path ends that of a state leaf; of several, the longest path.

    The empty path, that of parameters which are one array, ends every path: what it
    returns is to be checked by shape.
    """
    for length in sorted({len(path) for path in params}, reverse=True):
        start = len(keys) - length
        if start >= 0 and keys[start:] in params:
            return Owner(keys[start:], field_of(keys[:start]))
    return None


def field_of(keys: Keys) -> str:
    """The last name of a field (of a NamedTuple) in a path."""
    names = [key.name for key in keys if isinstance(key, jax.tree_util.GetAttrKey)]
    return names[-1] if names else ""
