"""What a tree is to this library: leaves with paths; None and rows are leaves too."""

from collections.abc import Iterator
from typing import Any

import jax

from rmsprop_optax._foundation._row_slices import RowSlices
from rmsprop_optax._foundation._stored import is_stored
from rmsprop_optax._foundation._types import PyTree


def is_leaf(node: Any) -> bool:
    """Whether a node of a tree of gradients is one leaf, whatever is inside of it."""
    return node is None or isinstance(node, RowSlices) or is_stored(node)


def path_of(key_path: tuple[Any, ...]) -> str:
    """The path of a leaf as a person writes it: ``encoder/0/bias``."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/") or "<the root>"


def leaves_with_paths(tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Each leaf of ``tree`` behind its path."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf):
        yield path_of(path), leaf


def align(tree: PyTree, *others: PyTree) -> list[tuple[str, list[Any]]] | None:
    """The leaves of several trees side by side, or None where they do not match."""
    flat, treedef = jax.tree.flatten(tree, is_leaf=is_leaf)
    columns = [flat]
    for other in others:
        leaves, other_def = jax.tree.flatten(other, is_leaf=is_leaf)
        if other_def != treedef:
            return None
        columns.append(leaves)
    paths = [path for path, _ in leaves_with_paths(tree)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return list(zip(paths, rows, strict=True))


def rebuild(like: PyTree, leaves: list[Any]) -> PyTree:
    """A tree of the structure of ``like``, leaf by leaf from ``leaves``."""
    return jax.tree.unflatten(jax.tree.structure(like, is_leaf=is_leaf), leaves)
