"""What a transformation is composed of, as far as its functions tell."""

import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import optax

from rmsprop_optax._config import RmspropConfig
from rmsprop_optax._foundation._origin import Origin, origin_of

Update = Callable[..., Any]


class Node(NamedTuple):
    """A transformation, and those in it.

    Attributes:
      name: The function or the class that made it.
      config: What `rmsprop` or a dialect made it of; None: it is no RMSprop.
      values: What it was made with, by name, but for transformations.
      inner: The `update` of each transformation in it, by name, number or label.
      has_labels: Whether ``inner`` has the labels of groups of parameters.
    """

    name: str
    config: RmspropConfig | None
    values: Mapping[str, Any]
    inner: Mapping[Hashable, Update]
    has_labels: bool = False


def node_of(update: Update) -> Node:
    """The node of a transformation with this `update`.

    This library's transformations say what they are. Of another one, the name and the
    variables of its functions are read.
    """
    # The function that `jax.jit` compiles.
    update = inspect.unwrap(
        update, stop=lambda f: inspect.isfunction(f) or inspect.ismethod(f)
    )
    origin = origin_of(update)
    if isinstance(origin, RmspropConfig):
        return Node(origin.source, origin, {}, {})
    if origin is None:
        origin = Origin(name_of(update), variables_of(update))
    values, inner, has_labels = {}, {}, False
    for name, value in origin.arguments.items():
        found = _transformations(name, value)
        inner |= found
        has_labels |= bool(found) and isinstance(value, Mapping)
        if isinstance(value, Mapping):
            value = {key: x for key, x in value.items() if key not in found}
        if value if isinstance(value, Mapping) else not found:
            values[name] = value
    return Node(origin.name, None, values, inner, has_labels)


def name_of(function: Any) -> str:
    """The name of a function; of one that another function made, that one's name."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    if inspect.ismethod(function):
        return type(function.__self__).__name__
    name = getattr(function, "__qualname__", type(function).__name__)
    return name.partition(".<locals>")[0].lstrip("_")


def variables_of(function: Any) -> dict[str, Any]:
    """The variables that a function has from the one that made it, by name.

    Those of functions beside it, which it calls, are among them.
    """
    found: dict[str, Any] = {}
    pending, seen = [function], set()
    while pending:
        fn = pending.pop()
        if id(fn) in seen:
            continue
        seen.add(id(fn))
        for name, value in _own_variables(fn).items():
            if _is_beside(fn, value):
                pending.append(value)
            else:
                found.setdefault(name.lstrip("_"), value)
    return found


def _own_variables(function: Any) -> dict[str, Any]:
    if isinstance(function, functools.partial):
        rest = {str(i): value for i, value in enumerate(function.args)}
        return _own_variables(function.func) | rest | function.keywords
    if inspect.ismethod(function):
        return dict(vars(function.__self__))
    if not inspect.isfunction(function):
        return dict(getattr(function, "__dict__", {}))
    names, cells = function.__code__.co_freevars, function.__closure__ or ()
    known = {}
    for name, cell in zip(names, cells, strict=True):
        try:
            known[name] = cell.cell_contents
        except ValueError:  # it has no value yet
            continue
    return known


def _is_beside(function: Any, value: Any) -> bool:
    """Whether ``value`` is a function that was made beside ``function``."""
    is_function = inspect.isroutine(value) and not _is_update(value)
    return is_function and name_of(value) == name_of(function)


def _transformations(name: str, value: Any) -> dict[Hashable, Update]:
    """The `update` of each transformation in a variable."""
    update = _update_in(value)
    if update is not None:
        return {name: update}
    if isinstance(value, (list, tuple)):
        is_named = [type(x) is tuple and [*map(type, x[:-1])] == [str] for x in value]
        value = value if all(is_named) else enumerate(value)
    elif not isinstance(value, Mapping):
        return {}
    updates = {key: _update_in(x) for key, x in dict(value).items()}
    return {key: x for key, x in updates.items() if x is not None}


def _update_in(value: Any) -> Update | None:
    if _is_update(value):
        return value
    # A stateful schedule has an `init` and an `update` too, and can be called.
    has_both = isinstance(value, (optax.GradientTransformation, optax.MultiSteps))
    return value.update if has_both else None


def _is_update(value: Any) -> bool:
    return inspect.isroutine(value) and value.__name__ in ("update", "update_fn")
