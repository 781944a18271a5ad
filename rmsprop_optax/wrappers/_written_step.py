"""An update as JAX wrote it down, to be written down again within one program."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.core import eval_jaxpr
from jax.extend.core import Jaxpr

from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree

_COPY = re.compile(r" = \w+\[([\d,]+)\]\S* copy\(")  # of what is no single number

Operands = tuple[PyTree, PyTree, PyTree]
"""What an update is made of: gradients, state, parameters."""

Moments = dict[int, list[int]]
"""By the place of a gradient among the leaves: the places of its moments in the state."""


class WrittenStep(NamedTuple):
    """An update, from operands to updates and state.

    Attributes:
      jaxpr: What it does.
      consts: What it uses besides its operands, such as a learning rate that is traced.
      results: The structure of what it returns.
      call: The jaxpr as a function of consts and operands. Jitted, so that it is lowered
        once however often it is called in a program.
    """

    jaxpr: Jaxpr
    consts: list[Any]
    results: Any
    call: Callable[..., list[jax.Array]]

    def __call__(self, operands: Operands) -> tuple[PyTree, PyTree]:
        """Writes it into the trace around."""
        flat = self.call(self.consts, *jax.tree.leaves(operands))
        return jax.tree.unflatten(self.results, flat)


def write_down(
    update: Callable[..., tuple[PyTree, PyTree]], operands: Operands
) -> WrittenStep:
    """Traces ``update``, once for all."""
    jaxpr, shapes = jax.make_jaxpr(update, return_shape=True)(*operands)
    call = jax.jit(partial(eval_jaxpr, jaxpr.jaxpr))
    return WrittenStep(jaxpr.jaxpr, jaxpr.consts, jax.tree.structure(shapes), call)


def write_anew(
    step: WrittenStep, operands: Operands, moments: Moments
) -> tuple[PyTree, PyTree]:
    """Each moment from the operands alone: n moments of a parameter, n more steps.

    What of a step nobody needs, XLA throws away; of what is left it makes one.
    """
    updates, state = step(operands)
    leaves, treedef = jax.tree.flatten(state)
    for turn in range(max(map(len, moments.values()))):
        # Each barrier around the one before: of two equal ones XLA makes one.
        operands = jax.lax.optimization_barrier(operands)
        again = jax.tree.leaves(step(operands)[1])
        for places in moments.values():
            for at in places[turn : turn + 1]:
                leaves[at] = again[at]
    return updates, jax.tree.unflatten(treedef, leaves)


def count_copied(
    step: WrittenStep, operands: Operands, moments: Moments, *, anew: bool
) -> int:
    """How many values XLA copies in a donated step of one parameter of each shape.

    Read off the compiled program; nothing is allocated, and nothing runs.

    Args:
      step: The update.
      operands: Arrays, or tracers of them.
      moments: Of all parameters.
      anew: Whether as `write_anew` writes it.
    """
    updates, state, params = jax.tree.map(_shape, operands)
    weights, weights_def = jax.tree.flatten(params, is_leaf=is_leaf)
    held, state_def = jax.tree.flatten(state)
    grads = jax.tree.leaves(updates, is_leaf=is_leaf)
    chosen = {grads[i].shape: i for i in moments}.values()
    counters = [at for at, leaf in enumerate(held) if not leaf.shape]
    donated = (
        {} if params is None else {i: weights[i] for i in chosen},
        {at: held[at] for at in counters + [at for i in chosen for at in moments[i]]},
    )

    def part(donated: Any, consts: list[Any], updates: PyTree, rest: Any) -> Any:
        some, moved = donated
        weights, held = (
            [taken.get(i, leaf) for i, leaf in enumerate(leaves)]
            for taken, leaves in zip(donated, rest, strict=True)
        )
        given = (
            updates,
            jax.tree.unflatten(state_def, held),
            jax.tree.unflatten(weights_def, weights),
        )
        again = step._replace(consts=consts)
        made, state = write_anew(again, given, moments) if anew else again(given)
        made = jax.tree.leaves(made, is_leaf=is_leaf)
        new = [some[i] + made[i] if i in some else made[i] for i in chosen]
        after = jax.tree.leaves(state)
        return new, [after[at] for at in moved]

    rest = (
        [None if i in donated[0] else leaf for i, leaf in enumerate(weights)],
        [None if i in donated[1] else leaf for i, leaf in enumerate(held)],
    )
    consts = [_shape(const) for const in step.consts]
    program = jax.jit(part, donate_argnums=0).lower(donated, consts, updates, rest)
    shapes = _COPY.findall(program.compile().as_text() or "")
    return sum(math.prod(map(int, shape.split(","))) for shape in shapes)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    kind = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype)
