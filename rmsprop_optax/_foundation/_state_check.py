"""A state that another configuration made is refused, by name of what differs."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax._foundation._dtypes import common_dtype, leaf_dtype
from rmsprop_optax._foundation._trees import (
    Keys,
    align,
    children_of,
    eval_shape,
    is_inexact,
    is_leaf,
    path_of,
    rebuild,
)
from rmsprop_optax._foundation._types import PyTree

Transformation = TypeVar("Transformation", bound=optax.GradientTransformation)

_is_inside: ContextVar[bool] = ContextVar("is_inside", default=False)
# For each `init` the arguments that it was compared with, which have the same result.
_checked: WeakKeyDictionary[Callable[[PyTree], PyTree], set[Any]] = WeakKeyDictionary()


def is_inside_check() -> bool:
    """Whether `init` runs for a comparison: what it warns of was said before."""
    return _is_inside.get()


def check_states(tx: Transformation) -> Transformation:
    """``tx``, whose `update` compares its state with what `init` would make.

    What is inside of it is compared with it, and not again by itself.
    """
    init, update = tx

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        if _is_inside.get():
            return update(updates, state, params, **extra_args)
        token = _is_inside.set(True)
        try:
            types = _types((updates, state, params))
            if types is None or types not in _known(init):
                _check(init, updates, state, params)
                _known(init).add(types)
            return update(updates, state, params, **extra_args)
        finally:
            _is_inside.reset(token)

    return tx._replace(update=update_fn)


def _known(init: Callable[[PyTree], PyTree]) -> set[Any]:
    try:
        return _checked.setdefault(init, set())
    except TypeError:  # a program has taken it apart: it holds arrays, and has no hash
        return set()


def _types(trees: PyTree) -> Any:
    """What a comparison depends on, as a key; None where that has no hash."""
    leaves, structure = jax.tree.flatten(trees)
    types = tuple((x.shape, x.dtype) if hasattr(x, "dtype") else type(x) for x in leaves)
    try:
        hash((structure, types))
    except TypeError:  # of what a module keeps beside its arrays
        return None
    return structure, types


def _check(
    init: Callable[[PyTree], PyTree], updates: PyTree, state: PyTree, params: PyTree
) -> None:
    leaves = _parameters(updates, params)
    if leaves is None:
        return
    try:
        expected = eval_shape(init, rebuild(updates, leaves))
    except Exception:  # what `init` can't take, `update` refuses in its own words
        return
    # Without parameters the update itself says which gradient has another shape.
    shapes = {jnp.shape(p) for p in leaves if p is not None and params is not None}
    is_partial = any(g is None for g in jax.tree.leaves(updates, is_leaf=is_leaf))

    def problem(wanted: Any, found: Any) -> str:
        if params is None and found is None:  # the update says it of the gradient
            return ""
        if isinstance(found, (int, float, complex)):  # `jax.jit` makes an array of it
            found = np.asarray(found, getattr(wanted, "dtype", None))
        if wanted is None or not hasattr(found, "dtype"):
            same = type(wanted) is type(found) or not hasattr(wanted, "dtype")
            if is_partial or ((wanted is None) == (found is None) and same):
                return ""
            return f"is {_kind(found)}, not {_kind(wanted)}"
        shape = jnp.shape(found)
        # The number of scales depends on the sharding, which is not always known here.
        alike = len(shape) == len(wanted.shape) and wanted.shape not in shapes
        if shape != wanted.shape and not alike:
            return f"has shape {shape}, not {wanted.shape}"
        if found.dtype == wanted.dtype or (params is None and _holds(found, wanted)):
            return ""
        return f"has dtype {found.dtype}, not {wanted.dtype}"

    message = _difference(expected, state, problem, ())
    if message:
        raise ValueError(
            f"`opt_state` was made by another transformation: {message}. Go on with the "
            "transformation that made it, or start from `tx.init(params)`."
        )


def _parameters(updates: PyTree, params: PyTree) -> list[Any] | None:
    """The parameters that the state is of, as far as gradients tell; None: they don't."""
    rows = align(updates, updates if params is None else params)
    if rows is None:
        return None
    found = []
    for g, p in rows:
        if params is None:
            p = None if g is None else jax.ShapeDtypeStruct(np.shape(g), leaf_dtype(g))
        elif not is_inexact(p):
            p = None
        elif g is not None and jnp.shape(p) != np.shape(g):
            return None
        found.append(p)
    return found


def _difference(
    expected: Any, state: Any, problem: Callable[[Any, Any], str], keys: Keys
) -> str:
    """The first place where two trees differ, and how; empty where there is none."""
    if expected is None or state is None or jax.tree_util.all_leaves([expected]):
        found = problem(expected, state)
        return found and f"'{path_of(keys)}' {found}"
    (wanted, wants), (children, has) = map(children_of, (expected, state))
    if wants != has:
        return f"'{path_of(keys)}' is {_kind(state)}, not {_kind(expected)}"
    for (key, child), (_, other) in zip(wanted, children, strict=True):
        found = _difference(child, other, problem, (*keys, *key))
        if found:
            return found
    return ""


def _kind(node: Any) -> str:
    if node is None:
        return "None"
    if hasattr(node, "dtype"):
        return f"an array of shape {jnp.shape(node)}"
    size = f" of {len(node)}" if isinstance(node, (tuple, list, dict)) else ""
    return f"a {type(node).__name__}{'' if hasattr(node, '_fields') else size}"


def _holds(found: Any, wanted: Any) -> bool:
    """Whether a moment is wider than the gradients alone let one expect."""
    dtypes = found.dtype, wanted.dtype
    if not all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        return False
    are_complex = {jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes}
    return len(are_complex) == 2 or common_dtype(*dtypes) == found.dtype
