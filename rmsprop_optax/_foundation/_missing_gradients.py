"""Any transformation on leaves without a gradient, which are None: they stay as they are.

Optax's own transformations drop the moment of such a leaf, or fail.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._checks import check_transformation
from rmsprop_optax._foundation._origin import origin_of
from rmsprop_optax._foundation._state_leaves import Init, Owner, owners_of
from rmsprop_optax._foundation._trees import (
    Keys,
    align,
    eval_shape,
    is_inexact,
    is_leaf,
    leaves_with_keys,
    map_with_keys,
)
from rmsprop_optax._foundation._types import PyTree

Update = Callable[..., tuple[PyTree, PyTree]]


def checked_inner(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """The ``inner`` of a wrapper, which takes extra arguments whether it uses them.

    Where it does not take gradients of None, it runs without these leaves.
    """
    check_transformation("inner", inner)
    is_ours = origin_of(inner.update) is not None  # they all take None
    init, update = inner = optax.with_extra_args_support(inner)
    if is_ours:
        return inner

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        def run(updates: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
            return update(updates, state, params, **extra_args)

        pairs = align(updates, params if params is not None else updates) or []
        is_partial = any(
            g is None and (params is None or is_inexact(p)) for g, p in pairs
        )
        if not is_partial or _keeps_state(run, updates, state, params):
            return run(updates, state, params)
        return _run_without(run, init, updates, state, params)

    return optax.GradientTransformationExtraArgs(init, update_fn)


def _keeps_state(run: Update, updates: PyTree, state: PyTree, params: PyTree) -> bool:
    """Whether an update works, and gives a state of the tree that it had."""
    try:
        _, new = eval_shape(lambda trees: run(*trees), (updates, state, params))
    except Exception:  # without these leaves it says it again, if it is another one
        return False
    return jax.tree.structure(new) == jax.tree.structure(state)


def _run_without(
    run: Update, init: Init, updates: PyTree, state: PyTree, params: PyTree
) -> tuple[PyTree, PyTree]:
    """Arrays of no rows in the place of what belongs to leaves without a gradient."""
    missing = {keys for keys, g in leaves_with_keys(updates) if g is None}
    owners = [
        owner if owner is not None and owner.keys in missing else None
        for owner in owners_of(init, updates, state)
    ]
    leaves, structure = jax.tree.flatten(state)
    pairs = list(zip(owners, leaves, strict=True))
    shapes = shapes_of(params, pairs)
    given = map_with_keys(
        lambda keys, g: no_gradient(shapes.get(keys)) if g is None else g,
        updates,
        is_leaf=is_leaf,
    )
    weights = params
    if params is not None:
        weights = jax.tree.map(
            lambda g, p: no_weights(p) if g is None else p,
            updates,
            params,
            is_leaf=is_leaf,
        )
    rows = [x if owner is None else no_rows(x, owner) for owner, x in pairs]
    new, state = run(given, structure.unflatten(rows), weights)
    changed = zip(pairs, structure.flatten_up_to(state), strict=True)
    kept = [x if owner is None else old for (owner, old), x in changed]
    new = jax.tree.map(
        lambda g, u: None if g is None else u, updates, new, is_leaf=is_leaf
    )
    return new, structure.unflatten(kept)


def shapes_of(
    params: PyTree, moments: Iterable[tuple[Owner | None, Any]]
) -> dict[Keys, tuple[int, ...]]:
    """The shapes of parameters, as far as they or their moments tell."""
    shapes = {owner.keys: jnp.shape(x) for owner, x in moments if owner is not None}
    known = [] if params is None else leaves_with_keys(params)
    return shapes | {keys: jnp.shape(p) for keys, p in known if is_inexact(p)}


def no_rows(x: Any, owner: Owner) -> jax.Array:
    """What an update sees of a moment without a gradient; it divides by no zero."""
    if jnp.ndim(x):
        return x[:0]
    return jnp.full_like(x, 1 if owner.part.holds == "second_moment" else 0)


def no_weights(p: Any) -> Any:
    """The same of a parameter, which may be of any type."""
    if not is_inexact(p):
        return None
    return p[:0] if jnp.ndim(p) else p


def no_gradient(shape: tuple[int, ...] | None) -> Any:
    """The gradient itself; None where the shape is not known."""
    if shape is None:
        return None
    return jnp.zeros((0, *shape[1:]) if shape else ())
