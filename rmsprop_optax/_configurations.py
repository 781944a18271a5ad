"""The configurations inside of a transformation, whatever is wrapped around them."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._config import RmspropConfig
from rmsprop_optax._foundation._checks import mask_of
from rmsprop_optax._foundation._trees import (
    eval_shape,
    find_states,
    leaves_with_keys,
    path_of,
    unbox,
)
from rmsprop_optax._foundation._types import PyTree

_record: ContextVar[Callable[[RmspropConfig, PyTree], None] | None] = ContextVar(
    "record", default=None
)


def record(config: RmspropConfig, params: PyTree) -> None:
    """Called by each `init`: what was built, for which parameters."""
    visit = _record.get()
    if visit is not None:
        visit(config, params)


def visit_configurations(
    tx: optax.GradientTransformation,
    params: PyTree,
    visit: Callable[[RmspropConfig, list[str], set[str]], None],
    opt_state: PyTree = None,
) -> None:
    """Calls ``visit`` with each configuration and the paths of its parameters.

    The last argument is the paths of those that the mask keeps from decaying.

    A combinator such as `optax.chain` or `optax.partition` keeps nothing of what it
    combines, but calls the `init` of each. So this traces `tx.init`. A number that
    `optax.inject_hyperparams` keeps in the state is that of ``opt_state``; a tracer
    without one, and where it is a schedule.
    """
    built: list[tuple[RmspropConfig, list[str], set[str]]] = []

    def found(config: RmspropConfig, params: PyTree) -> None:
        # Those there are: `optax.masked` hides the others.
        leaves = leaves_with_keys(params, is_leaf=None)
        paths = [path_of(keys) for keys, _ in leaves]
        built.append((config, paths, _excluded(config, params)))

    def init(params: PyTree) -> None:
        numbers = _injected(tx.init(params), opt_state)
        for config, paths, excluded in built:
            values = {f.name: getattr(config, f.name) for f in fields(config)}
            known = {n: numbers[id(x)] for n, x in values.items() if id(x) in numbers}
            visit(replace(config, **known) if known else config, paths, excluded)

    token = _record.set(found)
    try:
        eval_shape(init, params)
    finally:
        _record.reset(token)


def _excluded(config: RmspropConfig, params: PyTree) -> set[str]:
    """The paths of the parameters that the mask keeps from decaying."""
    mask = config.weight_decay_mask
    if mask is None:
        return set()
    flags = jax.tree.broadcast(mask_of(mask, params), params)
    return {path_of(keys) for keys, decays in leaves_with_keys(flags) if not decays}


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
