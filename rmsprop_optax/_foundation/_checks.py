"""Checks of arguments, and their wording.

Values are checked where an optimizer is built. What may be traced is checked only
while it is concrete: a tracer passes.
"""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._types import PyTree, Tracer

P = ParamSpec("P")
R = TypeVar("R")


def _concrete_scalar(name: str, value: Any, kind: str) -> float | None:
    """The number that ``value`` holds, or None while it is traced."""
    expected = f"`{name}` must be {kind}, got {value!r}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.generic, np.ndarray, jax.Array)
    ):
        raise TypeError(f"{expected} of type {type(value).__name__}.{_as_number(value)}")
    if np.shape(value) != ():
        raise ValueError(f"{expected} of shape {np.shape(value)}: give a scalar.")
    if not isinstance(value, (int, float)) and not is_real(value.dtype):
        raise TypeError(f"{expected} of dtype {value.dtype}.")
    if isinstance(value, Tracer):
        return None
    if isinstance(value, int) and abs(value) > np.iinfo(np.int32).max:
        raise ValueError(f"{expected}, which int32 can't hold.")
    return float(value)


def _as_number(value: Any) -> str:
    """How to make a number of a string, as configuration files have it."""
    for kind in (int, float):
        try:
            kind(value)
        except (TypeError, ValueError):
            continue
        return f" Convert it: {kind.__name__}({value!r})." * isinstance(value, str)
    return ""


def is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def _in_range(kind: str, holds: Callable[[float], bool]) -> Callable[[str, Any], None]:
    """A check of a named value: a scalar for which ``holds``, as ``kind`` says."""

    def check(name: str, value: Any) -> None:
        number = _concrete_scalar(name, value, kind)
        if number is None:
            return
        if not holds(number):
            raise ValueError(f"`{name}` must be {kind}, got {value!r}.{_hint(value)}")
        # Parameters are float32 under `jax_enable_x64` too, and a decay may be float64.
        for dtype, in_range in (
            (jnp.result_type(float), holds),
            (jnp.float32, math.isfinite),
        ):
            rounded = _rounded(number, dtype)
            if not in_range(rounded) or (number != 0 and rounded == 0):
                raise ValueError(
                    f"`{name}` must be {kind}, got {value!r}, which is {rounded} in "
                    f"{jnp.dtype(dtype)}."
                )

    return check


def _rounded(number: float, dtype: Any) -> float:
    """What XLA computes with: it takes numbers below the smallest normal one as 0."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.asarray(number).astype(dtype)
    return 0.0 if abs(rounded) < jnp.finfo(dtype).tiny else float(rounded)


def _hint(value: Any) -> str:
    if getattr(value, "dtype", None) not in (jnp.bfloat16, jnp.float16):
        return ""
    return (
        f" It was rounded to {value.dtype}: under `optax.inject_hyperparams`, give "
        "`hyperparam_dtype=jnp.float32`."
    )


check_decay = _in_range("a number in [0, 1)", lambda x: 0 <= x < 1)
check_closed_decay = _in_range("a number in [0, 1]", lambda x: 0 <= x <= 1)
check_non_negative = _in_range(
    "a finite number that is at least 0", lambda x: 0 <= x < math.inf
)
check_positive = _in_range("a finite number greater than 0", lambda x: 0 < x < math.inf)
check_loss_scale = _in_range(
    "a number between 2**-126 and 2**126, for float32 holds it and its inverse",
    lambda x: 2.0**-126 <= x <= 2.0**126,
)


def check_whole_number(name: str, value: Any, least: int) -> None:
    """A whole number, by type too: 2.0 is refused."""
    kind = f"an integer that is at least {least}"
    number = _concrete_scalar(name, value, kind)
    if not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise TypeError(f"`{name}` must be {kind}, got {value!r}.")
    if number is not None and number < least:
        raise ValueError(f"`{name}` must be {kind}, got {value!r}.")


def check_flag(name: str, value: Any) -> None:
    """True or False, not what is merely truthy."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"`{name}` must be True or False, got {value!r}: it decides which "
            "transformations there are, so it can't be traced or scheduled."
        )


def check_name(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise TypeError(f"`{name}` must be a string that is not empty, got {value!r}.")


def check_has_effect(name: str, value: Any, default: Any, needed: str) -> None:
    """An argument that has no effect without ``needed`` keeps its default."""
    # `optax.inject_hyperparams` hands every number over as an array, defaults too.
    if value is default or isinstance(value, jax.Array):
        return
    if not isinstance(value, (bool, int, float, np.number)) or value != default:
        raise ValueError(
            f"`{name}`={value!r} has no effect without `{needed}`: give that too, or "
            f"leave `{name}` out."
        )


_RATE = (
    "a number, a schedule that takes one argument (the step), or a callable that takes "
    "none (read at every step)"
)


def count_required_arguments(
    name: str, function: Callable[..., Any], kind: str = _RATE
) -> int:
    """How many arguments a callable takes: 0 or 1, or an error; ``kind`` is for that."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin without a signature: a schedule, as Optax has it
        return 1
    required = sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )
    if required == 0 and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 1
    if required > 1 or any(
        p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters
    ):
        raise TypeError(
            f"`{name}` must be {kind}, got {function!r} with the signature "
            f"{inspect.signature(function)}. Bind its other arguments with "
            "`functools.partial`."
        )
    return required


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        listed = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"`{name}` must be {listed}, got {value!r}.")


def check_float_dtype(name: str, value: Any, other: str) -> None:
    """A real floating dtype, where a name like ``other`` was possible too."""
    expected = f'`{name}` must be "{other}" or a floating dtype like "bfloat16"'
    if isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(
            f"{expected}, got an array: `optax.inject_hyperparams` takes `jnp.bfloat16` "
            'for a schedule; give it the name, "bfloat16".'
        )
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        raise ValueError(f"{expected}, got {value!r}.") from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{expected}, got {value!r}.")
    if jnp.finfo(dtype).bits < 8 or dtype == jnp.float8_e8m0fnu:
        raise ValueError(f"{expected}, got {value!r}, which holds too few numbers.")


def mask_of(mask: Any, tree: PyTree) -> Any:
    """A mask of ``tree`` that is a tree of booleans itself, or a function of it."""
    is_function = callable(mask) and not _holds_booleans(mask)
    return mask(tree) if is_function else mask


def _holds_booleans(mask: Any) -> bool:
    """Whether all leaves are booleans: a mask of a module may be callable as that is."""
    leaves = jax.tree.leaves(mask)
    return bool(leaves) and all(map(_is_boolean, leaves))


def _is_boolean(x: Any) -> bool:
    """One boolean, or an array of one, as a map over a tree of arrays gives it."""
    if isinstance(x, (np.ndarray, jax.Array)) and not isinstance(x, Tracer):
        return x.dtype == bool and x.shape == ()
    return isinstance(x, (bool, np.bool_))


def check_mask(name: str, value: Any) -> None:
    """A tree of booleans, or a function that returns one."""
    if _holds_booleans(value):
        return
    if callable(value):
        kind = "a tree of booleans, or a function of the parameters"
        if count_required_arguments(name, value, kind) != 1:
            raise TypeError(f"`{name}` must be {kind}, got {value!r}.")
        return
    wrong = [x for x in jax.tree.leaves(value) if not _is_boolean(x)]
    raise TypeError(
        f"`{name}` must be a tree of booleans or a function of the parameters that "
        f"returns one, got {(wrong or [value])[0]!r}: to name parameters by their paths, "
        'use `exclude_paths("bias", "norm")`. Under `optax.inject_hyperparams` name it '
        f'in `static_args=("{name}",)`.'
    )


def check_parameter_mask(name: str, value: Any) -> None:
    """A mask that is not one boolean for all parameters."""
    if _is_boolean(value):
        raise TypeError(
            f"`{name}` must say which parameters it holds for, got {value!r}. "
            "`optax.inject_hyperparams` takes a function for a schedule, and its result "
            f'for the mask: name it in `static_args=("{name}",)` there.'
        )
    check_mask(name, value)


def check_mapping(name: str, value: Any, check: Callable[[str, Any], None]) -> None:
    """A mapping from strings, whose values pass ``check``."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(
            f"`{name}` must be a mapping from the path of a parameter, such as "
            f"'encoder/embedding', got {value!r}."
        )
    for key, item in value.items():
        check(f"{name}['{key}']", item)


def check_transformation(name: str, value: Any) -> None:
    """What has an ``init`` and an ``update``, as every Optax transformation."""
    if not all(callable(getattr(value, part, None)) for part in ("init", "update")):
        raise TypeError(
            f"`{name}` must be an Optax transformation, such as `rmsprop()`, got "
            f"{value!r}."
        )


def check_function(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"`{name}` must be a function, got {value!r}.")


def check_names(name: str, value: Any, *, optional: bool = False) -> list[Any]:
    """A sequence of strings, as a list; ``optional``: None may stand among them."""
    sequence = isinstance(value, Iterable) and not isinstance(value, (str, Mapping))
    names = list(value) if sequence and not hasattr(value, "dtype") else [...]
    if not all(isinstance(n, str) or (optional and n is None) for n in names):
        raise TypeError(
            f"`{name}` must be a list of names, such as ['encoder/kernel'], got "
            f"{value!r}."
        )
    return names


_factories: dict[str, list[str]] = {}


def factory(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for the function that users know as ``name``.

    People come with the argument names of another framework. A call with an unknown
    keyword argument is a TypeError that names a similar argument, or the factories which
    take it; a call without an argument that is needed is one that names it.
    """

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(fn).parameters
        known = _factories[name] = [n for n in parameters if n != "self"]
        needed = [n for n, p in parameters.items() if p.default is p.empty]

        @functools.wraps(fn)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for argument in kwargs:
                if argument not in known:
                    raise TypeError(_message(name, argument))
            for argument in needed[len(args) :]:
                if argument not in kwargs:
                    raise TypeError(f"`{name}` needs `{argument}`: it has no default.")
            return fn(*args, **kwargs)

        return checked

    return decorate


def _message(name: str, argument: str) -> str:
    known = _factories[name]
    takers = [f"`{other}`" for other, names in _factories.items() if argument in names]
    hint = f" {', '.join(takers)} {'have' if takers[1:] else 'has'} it." if takers else ""
    for similar in difflib.get_close_matches(argument, known, 1):
        hint = f" Did you mean `{similar}`?" + hint
    return (
        f"`{name}` has no argument `{argument}`.{hint} "
        f"Those of `{name}` are {', '.join(known)}."
    )
