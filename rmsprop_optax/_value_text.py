"""The arguments of transformations as text, without addresses."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._composition import name_of, variables_of
from rmsprop_optax._foundation._schedules import Rate, is_schedule
from rmsprop_optax._foundation._trees import leaves_with_paths
from rmsprop_optax._foundation._types import Tracer


def call_text(name: str, values: Mapping[str, Any], depth: int = 0) -> str:
    """A call as a person writes it, without arguments that switch something off."""
    listed = arguments_text(values, depth=depth)
    return f"{name}({listed})" if listed else name


def text_of(value: Any, depth: int = 0) -> str:
    """A value in a few words.

    Of a large array the shape is shown, and of a function its name and the values that
    it has from the function that made it.
    """
    if isinstance(value, Tracer):
        return "traced"
    if isinstance(value, Rate):
        return text_of(value.given, depth)
    if isinstance(value, (re.Pattern, bool, str)) or value is None:
        return repr(getattr(value, "pattern", value))
    if isinstance(value, (type, np.dtype)):
        return np.dtype(value).name if isinstance(value, np.dtype) else value.__name__
    if hasattr(value, "dtype") or isinstance(value, (int, float, complex)):
        return number_text(value)
    if depth > 4:
        return name_of(value)
    if is_dataclass(value):
        known = {f.name: getattr(value, f.name) for f in fields(value)}
        return call_text(type(value).__name__, known, depth)
    kinds = {type(x) for _, x in leaves_with_paths(value)}
    if kinds and all(issubclass(kind, (jax.Array, np.ndarray)) for kind in kinds):
        return f"{len(jax.tree.leaves(value))} arrays"
    if kinds == {bool} or (kinds == {str} and not isinstance(value, (list, tuple))):
        return groups_text(value)
    if isinstance(value, Mapping):
        return "{" + arguments_text(value, ": ", depth) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(text_of(x, depth + 1) for x in value) + ")"
    if callable(value) and not inspect.ismethod(value):
        return call_text(name_of(value), variables_of(inspect.unwrap(value)), depth)
    return name_of(value)


def arguments_text(values: Mapping[Any, Any], sign: str = "=", depth: int = 0) -> str:
    """Those that are on: neither None nor False, nor empty."""
    given = {n: x for n, x in values.items() if x is not None and x is not False}
    texts = {n: text_of(x, depth + 1) for n, x in given.items()}
    return ", ".join(f"{n}{sign}{x}" for n, x in texts.items() if x not in ("{}", "()"))


def number_text(value: Any) -> str:
    """A number, in six digits if these are all; of an array that is none, the shape."""
    if isinstance(value, Tracer):
        return "traced"
    if np.size(value) != 1 or jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
        return f"{value.dtype}{list(value.shape)}"
    array = np.asarray(value).reshape(())
    number = array.item()
    text = f"{number:.6g}" if isinstance(number, float) else str(number)
    is_exact = not isinstance(number, float) or array.dtype.type(float(text)) == array
    return text if is_exact else str(array[()])


def groups_text(tree: Any) -> str:
    """A mask, or a tree of labels: the paths of each value."""
    groups: dict[Any, list[str]] = {}
    for path, value in leaves_with_paths(tree):
        groups.setdefault(value, []).append(path)
    return "; ".join(f"{value} for {paths_text(x)}" for value, x in groups.items())


def paths_text(paths: list[str]) -> str:
    """The first paths, and how many more there are."""
    more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
    return f"{', '.join(paths[:4])}{more}"


def samples_text(value: Any) -> str:
    """The values of a schedule at 0, 1, ..., 10^6; empty for what is no schedule."""
    value = getattr(value, "schedule_fn", value)  # of one that Optax counts the steps of
    try:
        if not (value.counts if isinstance(value, Rate) else is_schedule("", value)):
            return ""
        with jax.ensure_compile_time_eval():
            values = [value(jnp.int32(step)) for step in (0, *(10**i for i in range(7)))]
        if any(np.shape(x) or isinstance(x, bool) for x in values):
            return ""
        # Four digits: other devices may round the sixth one in another way.
        numbers = ["traced" if isinstance(x, Tracer) else f"{x:.4g}" for x in values]
    except Exception:  # a function of something else, such as a mask
        return ""
    return ", ".join(numbers)
