"""An unknown argument is an error that says which factory takes it."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_factories: dict[str, list[str]] = {}


def factory(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for the function that users know as ``name``.

    People come with the argument names of another framework. A call with an unknown
    keyword argument is a TypeError that names the factories which take it.
    """

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        known = _factories[name] = list(inspect.signature(fn).parameters)

        @functools.wraps(fn)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for argument in kwargs:
                if argument not in known:
                    raise TypeError(_message(name, argument))
            return fn(*args, **kwargs)

        return checked

    return decorate


def _message(name: str, argument: str) -> str:
    takers = [f"`{other}`" for other, known in _factories.items() if argument in known]
    hint = f" {', '.join(takers)} {'have' if takers[1:] else 'has'} it." if takers else ""
    return (
        f"`{name}` has no argument `{argument}`.{hint} "
        f"Those of `{name}` are {', '.join(_factories[name])}."
    )
