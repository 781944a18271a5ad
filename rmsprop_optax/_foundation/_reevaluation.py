"""A program whose elementwise part can be evaluated several times.

XLA on CPU writes an intermediate array to memory if several loops need it and it is
expensive to compute, such as a root. It does not see that two evaluations compute the
same, so each loop computes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core  # noqa: TID251

from rmsprop_optax._foundation._types import PyTree

_ELEMENTWISE = """abs add and broadcast_in_dim clamp convert_element_type div eq exp exp2
expm1 ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow
rsqrt select_n sign sqrt square sub tanh"""  # names of primitives

Value = Callable[[int], Any]
"""An array, by the turn that it is evaluated in. Turn 0 is the ordinary one."""


class Program(NamedTuple):
    """What a function does to these arguments.

    Attributes:
      closed: Its equations.
      args: The arrays that it uses: those that it closes over, then its arguments.
      results: The tree of its results.
    """

    closed: core.ClosedJaxpr
    args: list[Any]
    results: Any

    def run(self) -> PyTree:
        """The results."""
        arguments = self.args[len(self.closed.consts) :]
        return self.results.unflatten(core.jaxpr_as_fun(self.closed)(*arguments))

    def turns(self, count: int) -> list[PyTree]:
        """The results, evaluated so many times."""
        values = self.values()
        return [
            self.results.unflatten([v(turn) for v in values]) for turn in range(count)
        ]

    def values(self, args: Sequence[Any] | None = None) -> list[Value]:
        """Each result, with these arrays in the place of ``args``.

        What is not elementwise, such as a norm, is evaluated once, for all turns.
        """
        args = self.args if args is None else args
        return _read(self.closed.jaxpr, list(map(_marked, args)))


def trace(fn: Callable[[Any], PyTree], arrays: PyTree) -> Program:
    """``fn(arrays)`` as a program."""
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(arrays)
    args = [*closed.consts, *jax.tree.leaves(arrays)]
    return Program(closed, args, jax.tree.structure(shapes))


def equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """All equations of a program, those of branches, loops and calls too."""
    yield from jaxpr.eqns
    for inner in core.subjaxprs(jaxpr):
        yield from equations(inner)


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a variable of a program; () for what is no array."""
    return getattr(atom.aval, "shape", ())


def _read(jaxpr: core.Jaxpr, operands: Sequence[Value]) -> list[Value]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), operands, strict=True))

    def read(atom: Any) -> Value:
        return _marked(atom.val) if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        name, shapes = equation.primitive.name, list(map(shape_of, equation.invars))
        args = [read(atom) for atom in equation.invars]
        if name == "jit":
            called = equation.params["jaxpr"]
            outs = _read(called.jaxpr, [*map(_marked, called.consts), *args])
        elif name in _ELEMENTWISE.split() and any(shapes):
            whole = ((), shape_of(equation.outvars[0]))
            # A smaller array is not part of the loop.
            pairs = zip(args, shapes, strict=True)
            args = [v if shape in whole else _marked(v(0)) for v, shape in pairs]
            outs = [cache(partial(_bind, equation, args))]
        else:
            outs = _bind(equation, args, 0)
            outs = map(_marked, outs if equation.primitive.multiple_results else [outs])
        values.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _bind(equation: core.JaxprEqn, args: Sequence[Value], turn: int) -> Any:
    params = equation.primitive.get_bind_params(equation.params)
    return equation.primitive.bind(*(value(turn) for value in args), **params)


def _marked(x: Any) -> Value:
    """The same values in each turn, rounded to more bits than they have.

    So XLA takes them for another array in each.
    """
    if not jnp.shape(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        return lambda turn: x
    bits = jnp.finfo(x.dtype)
    rounded = partial(jax.lax.reduce_precision, x, bits.nexp)
    return cache(lambda turn: rounded(bits.nmant + turn) if turn else x)
