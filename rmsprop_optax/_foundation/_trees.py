"""Pytree paths, leaves and alignment; None is a leaf."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._types import PyTree

Keys = tuple[Any, ...]
"""A path as JAX gives it: a tuple of keys."""

State = TypeVar("State")


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

    def zeros_like(self) -> Any:
        """A leaf of the same structure that changes nothing."""

    def mean_over_devices(self, axis_name: Any) -> Any:
        """The mean of the leaves of all devices along a mapped axis."""


def is_gradient_leaf(node: Any) -> bool:
    """Whether a node has the methods of `GradientLeaf`.

    Its class is asked: an NNX `Variable` has the attributes of what is in it.
    """
    return hasattr(type(node), "map_values")


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


def is_box(node: Any) -> bool:
    """Whether a node is what a module library keeps one array in.

    NNX's `Variable` and linen's `Partitioned` are pytree nodes: with them the key of an
    array ends in the name of a field, which is no part of the parameter's path.
    """
    return hasattr(node, "get_value") or hasattr(node, "unbox")


def content_of(node: Any) -> Any:
    """What is in a box; anything else as it is."""
    if hasattr(node, "get_value"):
        return node.get_value()
    return node.unbox() if hasattr(node, "unbox") else node


def unbox(tree: PyTree) -> PyTree:
    """The same tree with arrays in the place of boxes."""
    return jax.tree.map(content_of, tree, is_leaf=is_box)


def eval_shape(function: Callable[[PyTree], PyTree], tree: PyTree) -> PyTree:
    """`jax.eval_shape` for a tree that may hold functions and names beside its arrays."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")}

    def traced(arrays: dict[int, Any]) -> PyTree:
        all_leaves = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        return function(structure.unflatten(all_leaves))

    return jax.eval_shape(traced, arrays)


def leaves_with_keys(
    tree: PyTree, is_leaf: Callable[[Any], bool] | None = is_leaf
) -> list[tuple[Keys, Any]]:
    """Each leaf of ``tree`` behind its path, None included; the path of a box ends at it.

    In the order of `jax.tree.leaves`. ``is_leaf=None``: without None, and with the arrays
    inside a `GradientLeaf`.
    """

    def stops(node: Any) -> bool:
        return is_box(node) or (is_leaf is not None and is_leaf(node))

    found = []
    for keys, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=stops):
        leaves = jax.tree.leaves(node, is_leaf=is_leaf) if is_box(node) else [node]
        found += [(keys, leaf) for leaf in leaves]
    return found


def children_of(node: Any) -> tuple[list[tuple[Keys, Any]], Any]:
    """What is directly in a node, each behind its key, and the node's structure."""
    return jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node
    )


def map_with_keys(
    fn: Callable[..., Any],
    tree: PyTree,
    *rest: PyTree,
    is_leaf: Callable[[Any], bool] | None = None,
) -> PyTree:
    """`jax.tree_util.tree_map_with_path` with the keys of `leaves_with_keys`."""
    structure = jax.tree.structure(tree, is_leaf=is_leaf)
    columns = zip(
        leaves_with_keys(tree, is_leaf), *map(structure.flatten_up_to, rest), strict=True
    )
    return structure.unflatten([fn(keys, x, *others) for (keys, x), *others in columns])


def find_states(opt_state: PyTree, *kinds: type[State]) -> list[tuple[str, State]]:
    """Every state of these classes behind its path, those inside of others too."""
    found = []

    def visit(start: Keys, tree: PyTree, around: Any) -> None:
        def stops(node: Any) -> bool:
            return node is not around and isinstance(node, kinds)

        for keys, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=stops):
            if isinstance(node, kinds):
                found.append((path_of((*start, *keys)), node))
                visit((*start, *keys), node, node)

    visit((), opt_state, None)
    return found


def leaves_with_paths(tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Each leaf of ``tree`` behind its path as a string, None included."""
    for keys, leaf in leaves_with_keys(tree):
        yield path_of(keys), leaf


class LeafPath:
    """The path of a leaf, made only when an error is written: a thousand take a while."""

    def __init__(
        self, tree: PyTree, index: int, is_leaf: Callable[[Any], bool] | None = is_leaf
    ) -> None:
        self._tree, self._index, self._is_leaf = tree, index, is_leaf

    def __str__(self) -> str:
        return path_of(leaves_with_keys(self._tree, self._is_leaf)[self._index][0])


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
