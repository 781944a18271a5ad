"""The configurations inside of a transformation, whatever is wrapped around them."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._config import RmspropConfig
from rmsprop_optax._foundation._trees import (
    eval_shape,
    find_states,
    leaves_with_keys,
    path_of,
    unbox,
)
from rmsprop_optax._foundation._types import PyTree

_Record = Callable[[RmspropConfig, PyTree, PyTree], None]

_record: ContextVar[_Record | None] = ContextVar("record", default=None)


def record(config: RmspropConfig, params: PyTree, state: PyTree) -> None:
    """Called by each `init`: what was built, for which parameters, with which state."""
    visit = _record.get()
    if visit is not None:
        visit(config, params, state)


def visit_configurations(
    tx: optax.GradientTransformation,
    params: PyTree,
    visit: Callable[[RmspropConfig, list[str]], None],
    opt_state: PyTree = None,
) -> list[str]:
    """Calls ``visit`` with each configuration and the paths of its parameters.

    A combinator such as `optax.chain` or `optax.partition` keeps nothing of what it
    combines, but calls the `init` of each. So this traces `tx.init`. A number that
    `optax.inject_hyperparams` keeps in the state is that of ``opt_state``; a tracer
    without one, and where it is a schedule.

    Returns:
      The classes of the states that belong to none of these configurations.
    """
    states: list[Any] = []
    built: list[tuple[RmspropConfig, list[str]]] = []
    names: list[str] = []

    def found(config: RmspropConfig, params: PyTree, state: PyTree) -> None:
        states.append(state)
        # Those there are: `optax.masked` hides the others.
        leaves = leaves_with_keys(params, is_leaf=None)
        built.append((config, [path_of(keys) for keys, _ in leaves]))

    def init(params: PyTree) -> None:
        fresh = tx.init(params)
        names.extend(_foreign(fresh, states))
        numbers = _injected(fresh, opt_state)
        for config, paths in built:
            values = {f.name: getattr(config, f.name) for f in fields(config)}
            known = {n: numbers[id(x)] for n, x in values.items() if id(x) in numbers}
            visit(replace(config, **known) if known else config, paths)

    token = _record.set(found)
    try:
        eval_shape(init, params)
    finally:
        _record.reset(token)
    return names


def _injected(fresh: PyTree, opt_state: PyTree) -> Mapping[int, jax.Array]:
    """What ``opt_state`` has for each traced number of a fresh state, by identity."""
    kind = optax.InjectStatefulHyperparamsState
    nodes, known = (find_states(unbox(tree), kind) for tree in (fresh, opt_state))
    if len(nodes) != len(known):
        return {}
    return {
        id(traced): jnp.asarray(state.hyperparams[name])
        for (_, node), (_, state) in zip(nodes, known, strict=True)
        for name, traced in node.hyperparams.items()
        if name not in node.hyperparams_states
    }


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
