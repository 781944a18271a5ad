"""The configurations inside of a transformation, whatever is wrapped around them."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax
import optax

from rmsprop_optax._config import RmspropConfig
from rmsprop_optax._foundation._trees import leaves_with_keys, path_of
from rmsprop_optax._foundation._types import PyTree

Visit = Callable[[RmspropConfig, list[str]], None]
_Record = Callable[[RmspropConfig, PyTree, PyTree], None]

_record: ContextVar[_Record | None] = ContextVar("record", default=None)


def record(config: RmspropConfig, params: PyTree, state: PyTree) -> None:
    """Called by each `init`: what was built, for which parameters, with which state."""
    visit = _record.get()
    if visit is not None:
        visit(config, params, state)


def visit_configurations(
    tx: optax.GradientTransformation, params: PyTree, visit: Visit
) -> list[str]:
    """Calls ``visit`` with each configuration and the paths of its parameters.

    A combinator such as `optax.chain` or `optax.partition` keeps nothing of what it
    combines, but calls the `init` of each. So this traces `tx.init`. A number that
    `optax.inject_hyperparams` keeps in the state is a tracer.

    Returns:
      The classes of the states that belong to none of these configurations.
    """
    states = []

    def found(config: RmspropConfig, params: PyTree, state: PyTree) -> None:
        states.append(state)
        visit(config, _paths(params))

    leaves, structure = jax.tree.flatten(params)
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")}
    names: list[str] = []

    def init(traced: dict[int, Any]) -> None:
        all_leaves = [traced.get(i, leaf) for i, leaf in enumerate(leaves)]
        opt_state = tx.init(structure.unflatten(all_leaves))
        names.extend(_foreign(opt_state, states))

    token = _record.set(found)
    try:
        jax.eval_shape(init, arrays)
    finally:
        _record.reset(token)
    return names


def _paths(params: PyTree) -> list[str]:
    """The paths of the parameters there are: `optax.masked` hides the others."""
    leaves = leaves_with_keys(params, lambda node: isinstance(node, optax.MaskedNode))
    return [
        path_of(keys) for keys, leaf in leaves if not isinstance(leaf, optax.MaskedNode)
    ]


def _foreign(opt_state: PyTree, ours: list[Any]) -> list[str]:
    """The names of the states beside and around ``ours``, each once."""
    names: dict[str, None] = {}

    def stop(node: Any) -> bool:
        if any(node is state for state in ours):
            return True
        if hasattr(node, "_fields") and not isinstance(node, optax.MaskedNode):
            names[type(node).__name__] = None
        return False

    jax.tree.leaves(opt_state, is_leaf=stop)
    return list(names)
