"""Pytree paths, leaves and alignment; None is a leaf."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._types import PyTree

Keys = tuple[Any, ...]
"""A path as JAX gives it: a tuple of keys."""


class GradientLeaf(Protocol):
    """A gradient leaf that is not an array, such as ``sparse.RowSlices``.

    A pytree node with these methods is one leaf to every wrapper.

    Attributes:
      shape: The shape of its parameter.
      dtype: The dtype of its values.
    """

    shape: tuple[int, ...]
    dtype: Any

    def map_values(self, fn: Callable[[Any], Any]) -> Any:
        """The same leaf with ``fn(values)`` as its values."""
        ...

    def zeros_like(self) -> Any:
        """A leaf of the same structure that changes nothing."""
        ...

    def mean_over_devices(self, axis_name: Any) -> Any:
        """The mean of the leaves of all devices along a mapped axis."""
        ...


def is_gradient_leaf(node: Any) -> bool:
    """Whether a node has the methods of `GradientLeaf`."""
    return hasattr(node, "map_values")


def is_leaf(node: Any) -> bool:
    """Whether a node of a tree of gradients is one leaf, whatever is inside it."""
    return node is None or is_gradient_leaf(node)


def map_values(fn: Callable[[Any], Any], leaf: Any) -> Any:
    """``fn`` of an array, or of the values of a `GradientLeaf`."""
    return leaf.map_values(fn) if is_gradient_leaf(leaf) else fn(leaf)


def zeros_like(leaf: Any) -> Any:
    """Zeros like an array, or a `GradientLeaf` that changes nothing; None stays None."""
    if leaf is None:
        return None
    return leaf.zeros_like() if is_gradient_leaf(leaf) else jnp.zeros_like(leaf)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is a floating-point or complex array, or a Python number of one.

    False for what is no array: functions, strings, typed random keys.
    """
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, (float, complex))
    return jnp.issubdtype(dtype, jnp.inexact)


def path_of(keys: Keys) -> str:
    """The path of a leaf as a person writes it: ``encoder/0/bias``."""
    return jax.tree_util.keystr(keys, simple=True, separator="/") or "<the root>"


def leaves_with_keys(tree: PyTree) -> list[tuple[Keys, Any]]:
    """Each leaf of ``tree`` behind its path, None included."""
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)


def leaves_with_paths(tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Each leaf of ``tree`` behind its path as a string, None included."""
    for keys, leaf in leaves_with_keys(tree):
        yield path_of(keys), leaf


def align(tree: PyTree, *others: PyTree) -> list[list[Any]] | None:
    """The leaves of several trees side by side, or None where they do not match."""
    flat, treedef = jax.tree.flatten(tree, is_leaf=is_leaf)
    columns = [flat]
    for other in others:
        leaves, other_def = jax.tree.flatten(other, is_leaf=is_leaf)
        if other_def != treedef:
            return None
        columns.append(leaves)
    return [list(row) for row in zip(*columns, strict=True)]


def rebuild(like: PyTree, leaves: list[Any]) -> PyTree:
    """A tree of the structure of ``like``, leaf by leaf from ``leaves``."""
    return jax.tree.unflatten(jax.tree.structure(like, is_leaf=is_leaf), leaves)
