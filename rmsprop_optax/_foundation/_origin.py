"""What made a transformation: a function of this library, and its arguments."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import optax

P = ParamSpec("P")
Transformation = TypeVar("Transformation", bound=optax.GradientTransformation)

# By the `update`, which is what combinators such as `optax.chain` keep.
_origins: WeakKeyDictionary[Callable[..., Any], Any] = WeakKeyDictionary()


class Origin(NamedTuple):
    """A function, and the arguments that it was called with, defaults too."""

    name: str
    arguments: Mapping[str, Any]


def set_origin(tx: Transformation, origin: Any) -> Transformation:
    """``tx``, of which `origin_of` knows what made it."""
    _origins[tx.update] = origin
    return tx


def origin_of(update: Callable[..., Any]) -> Any:
    """What made the transformation of this `update`; None: it is not known."""
    try:
        return _origins.get(update)
    except TypeError:  # it has no hash, or there are no weak references to it
        return None


def recorded(function: Callable[P, Transformation]) -> Callable[P, Transformation]:
    """A decorator: what ``function`` returns is known to come from it."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> Transformation:
        tx = function(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        return set_origin(tx, Origin(function.__name__, given.arguments))

    return build
