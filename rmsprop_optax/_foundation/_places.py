"""Which parameter a leaf of an optimizer's state belongs to."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from rmsprop_optax._foundation._stored import BlockCodes, Dithered
from rmsprop_optax._foundation._types import PyTree

Keys = tuple[Any, ...]
_PARTS = {*BlockCodes._fields, *Dithered._fields, "indices", "values"}


class Place(NamedTuple):
    """A parameter found in the path of a leaf of a state.

    Attributes:
      param: The parameter, or what is known of it.
      keys: Its own path.
      start: Where that begins in the path of the leaf; before it is the moment.
    """

    param: Any
    keys: Keys
    start: int


def parameters_by_keys(params: PyTree) -> dict[Keys, Any]:
    """The parameters behind their paths; one array alone has the empty path."""
    return dict(jax.tree_util.tree_leaves_with_path(params))


def place_of(path: Keys, params: Mapping[Keys, Any]) -> Place | None:
    """The parameter whose path is in that of a leaf: the longest one, the innermost.

    None where there is none, and for the empty path, which would be in every other. Of
    parameters in a list the path is a number, and so is the place of a transformation in
    a chain: that one has the names of its state behind it.
    """
    for length in sorted({len(keys) for keys in params if keys}, reverse=True):
        for start in range(len(path) - length, -1, -1):
            keys, behind = path[start : start + length], path[start + length :]
            if keys in params and (_is_named(keys) or _is_kept(behind)):
                return Place(params[keys], keys, start)
    return None


def _is_named(keys: Keys) -> bool:
    return not all(isinstance(key, jax.tree_util.SequenceKey) for key in keys)


def _is_kept(behind: Keys) -> bool:
    """Whether this is what a moment consists of."""
    return all(getattr(key, "name", None) in _PARTS for key in behind)
