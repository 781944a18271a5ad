"""Trees of gradients, parameters and moments side by side, and errors that name a leaf.

Leaves are checked at `init` and when `update` is first traced, so that no message comes
from inside XLA.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._trees import (
    LeafPath,
    align,
    is_gradient_leaf,
    leaves_with_paths,
)
from rmsprop_optax._foundation._types import PyTree

MOMENTS = "parameters that the optimizer state was made for"
PARAMS = "parameters"


def check_parameters(params: PyTree) -> None:
    """Every leaf is None or a floating-point or complex array."""
    for path, leaf in leaves_with_paths(params):
        if leaf is None:
            continue
        dtype = getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, (bool, int, float, complex)):
            dtype = jnp.result_type(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            what = f"is {leaf!r}, not an array" if dtype is None else f"has dtype {dtype}"
            raise TypeError(
                f"Parameter '{path}' {what}: only floating-point and complex "
                "parameters can be trained. Keep it out of the optimizer with "
                "`optax.masked` or `optax.partition`, or filter the tree "
                "(`equinox.filter(model, equinox.is_inexact_array)`)."
            )


def check_has_params(params: PyTree, what: str) -> None:
    """The parameters were given to ``what``, which needs them."""
    if params is None:
        raise ValueError(
            f"{what} needs the parameters, got `params=None`: "
            "call `tx.update(grads, opt_state, params)`."
        )


def check_dense(updates: PyTree) -> None:
    """No gradient comes by rows, which only transformations inside `sparse.lazy` take."""
    aligned(updates, what=MOMENTS)


def aligned(
    updates: PyTree,
    *others: PyTree,
    what: str,
    shape: Callable[[Any], tuple[int, ...]] = jnp.shape,
) -> list[list[Any]]:
    """Leaves side by side; an error names the first path that does not match.

    ``shape`` says which shape the others have beside a gradient.
    """
    rows = align(updates, *others)
    if rows is None:
        raise ValueError(structure_message(updates, others, what))
    for index, (g, *rest) in enumerate(rows):
        if g is not None:
            _check_fits(LeafPath(updates, index), g, rest, what, shape)
    return rows


def structure_message(updates: PyTree, others: tuple[PyTree, ...], what: str) -> str:
    """What does not match between trees of different structures."""
    for listed in (paths_apart(updates, other) for other in others):
        if listed:
            return (
                f"The gradients do not have the tree of the {what} ({listed}). "
                "Use the parameters that `tx.init` was called with; "
                "a leaf without a gradient is None."
            )
    structures = [jax.tree.structure(tree) for tree in (updates, *others)]
    return (
        f"The gradients have the leaves of the {what}, in containers of other types: "
        f"{structures[0]} against {structures[1:]}."
    )


def paths_apart(tree: PyTree, wanted: PyTree) -> str:
    """The paths that one of two trees has alone, in words; empty without any."""
    have, want = ({path for path, _ in leaves_with_paths(x)} for x in (tree, wanted))
    parts = {"missing": sorted(want - have), "not known": sorted(have - want)}
    return "; ".join(
        f"{name}: {', '.join(paths[:5])}{' ...' if len(paths) > 5 else ''}"
        for name, paths in parts.items()
        if paths
    )


def _check_fits(
    path: LeafPath,
    g: Any,
    others: list[Any],
    what: str,
    shape_beside: Callable[[Any], tuple[int, ...]],
) -> None:
    if is_gradient_leaf(g):
        raise TypeError(
            f"Gradient '{path}' is {g!r}, and this transformation takes arrays: wrap it, "
            "alone or with the chain that it is in, in `sparse.lazy`."
        )
    shape = jnp.shape(g)
    for other in others:
        if other is None:
            raise ValueError(
                f"Gradient '{path}' is an array of shape {shape}, but the {what} have "
                "None there: this leaf was None when `tx.init` was called."
            )
        if shape_beside(g) != jnp.shape(other):
            raise ValueError(
                f"Gradient '{path}' has shape {shape}, the {what} have shape "
                f"{jnp.shape(other)} there: call `tx.init` again for parameters of "
                "another shape, or give the gradient of the loss, not of a batch."
            )
