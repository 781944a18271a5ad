"""Which parameter an array of an optimizer state belongs to, found by structure.

`optax.tree.map_params` says which parts of a state have the place of the parameters. Only
below such a part does a path say which parameter an array belongs to.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._state_fields import Holds, holds
from rmsprop_optax._foundation._trees import (
    Keys,
    children_of,
    is_box,
    is_inexact,
    is_leaf,
    leaves_with_keys,
)
from rmsprop_optax._foundation._types import PyTree

Init = Callable[[PyTree], PyTree]
"""From parameters to a state."""


class Member(NamedTuple):
    """An array of a state that belongs to a parameter.

    Attributes:
      number: Which of the arrays of the state, in the order of `jax.tree.leaves`.
      param: The path of the parameter.
      below: What follows in the path of the array: `optax.sm3` keeps a list of arrays
        for each parameter. () for the array that stands in the parameter's place.
    """

    number: int
    param: Keys
    below: Keys


class Part(NamedTuple):
    """A part of a state that has the place of the parameters: a moment of all of them.

    Attributes:
      kind: The class of the state around it; None where it has no class.
      field: The field of that class, such as ``nu``; "" where there is none.
      members: The arrays in it.
    """

    kind: type | None
    field: str
    members: list[Member]

    @property
    def holds(self) -> Holds | None:
        """What it holds; None: it is not known."""
        return holds(self.kind, self.field)


class Owner(NamedTuple):
    """What an array of a state belongs to: a parameter, by its path, and a part."""

    keys: Keys
    part: Part


@dataclass(frozen=True)
class _Marked:
    """A part of a state whose arrays are replaced by their numbers; a leaf."""

    tree: Any


def parts_of(init: Init, params: PyTree, state: PyTree) -> list[Part]:
    """The parts of a state that have the place of the parameters, in its order.

    ``params`` may be gradients (None and rows are leaves), and ``state`` shapes.
    """
    leaves, structure = jax.tree.flatten(state)
    numbers = structure.unflatten(range(len(leaves)))
    marked = _mark(init, numbers)
    if marked is None:
        marked = _mark_alike(params, numbers, leaves)
    known = {keys for keys, _ in leaves_with_keys(params)}
    found = []
    for keys, node in jax.tree_util.tree_leaves_with_path(marked):
        if isinstance(node, _Marked):
            kind, field = _class_and_field(numbers, keys)
            found.append(Part(kind, field, _members(node.tree, known)))
    return found


def owners_of(init: Init, params: PyTree, state: PyTree) -> list[Owner | None]:
    """The owner of each array of a state; None for what belongs to no parameter."""
    owners: list[Owner | None] = [None] * len(jax.tree.leaves(state))
    for part in parts_of(init, params, state):
        for member in part.members:
            owners[member.number] = Owner(member.param, part)
    return owners


def _mark(init: Init, numbers: PyTree) -> PyTree | None:
    """``numbers`` with `_Marked` in the place of each part; None where Optax can't tell.

    `optax.tree.map_params` calls `init` with a placeholder. Some need real parameters:
    `optax.lbfgs`, `optax.flatten`, and `optax.partition` with labels by key.
    """
    found = []

    def mark() -> tuple[()]:
        found.append(
            optax.tree.map_params(init, _Marked, numbers, is_leaf=lambda _: True)
        )
        return ()

    try:
        jax.eval_shape(mark)  # so that `init` computes nothing
    except Exception:
        return None
    return found[0]


def _mark_alike(params: PyTree, numbers: PyTree, leaves: list[Any]) -> PyTree:
    """The same by node types and keys of the parameters; of one array by its shape."""

    def is_part(node: Any) -> bool:
        if _is_one(params):
            alone = isinstance(node, int) and is_inexact(leaves[node])
            return alone and jnp.shape(leaves[node]) == getattr(params, "shape", ())
        return not isinstance(node, optax.MaskedNode) and _fits(params, node)

    return jax.tree.map(
        lambda node: _Marked(node) if is_part(node) else node, numbers, is_leaf=is_part
    )


def _fits(params: Any, node: Any) -> bool:
    """Whether a node has the node types and keys of the parameters, as far as they go."""
    if _is_one(params) or isinstance(node, optax.MaskedNode):
        return True
    (wanted, wants), (children, has) = map(children_of, (params, node))
    pairs = zip(wanted, children, strict=False)
    return bool(wanted) and wants == has and all(_fits(p, x) for (_, p), (_, x) in pairs)


def _is_one(params: Any) -> bool:
    return is_leaf(params) or is_box(params) or jax.tree_util.all_leaves([params])


def _class_and_field(state: PyTree, keys: Keys) -> tuple[type | None, str]:
    """The last class with fields on a path into a state, and its field there."""
    kind, field = None, ""
    for key in keys:
        if isinstance(key, jax.tree_util.GetAttrKey):
            kind, field = type(state), key.name
        state = next(x for (found,), x in children_of(state)[0] if found == key)
    return kind, field


def _members(part: PyTree, known: Collection[Keys]) -> list[Member]:
    found = []
    for keys, number in leaves_with_keys(part, is_leaf=None):
        for length in range(len(keys), -1, -1):
            if keys[:length] in known:
                found.append(Member(number, keys[:length], keys[length:]))
                break
    return found


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
