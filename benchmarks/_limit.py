"""What limits a step: memory bandwidth, dispatch, or arithmetic and allocation."""

import math
import resource
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import _timing
from benchmarks._problem import Problem
from benchmarks._timing import Contender, Times

BOUND = "memory-bandwidth bound"
ROW = 1024
SMALL_BYTES, DISPATCH_MS = 1e6, 0.1  # a step that moves less; a leaf that takes less


def bound(moved: float) -> Contender:
    """An addition in place to an array, which reads and writes that many bytes in all.

    It takes turns with the step that it bounds, so both have the same share of the
    machine.
    """
    # In rows, because XLA on CPU is slower on one long row of an odd length.
    held = [jnp.zeros((math.ceil(moved / (8 * ROW)), ROW), jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run(_: Any) -> None:
        held[0] = add(held[0]).block_until_ready()

    return Contender(BOUND, run)


def step(tx: optax.GradientTransformation, held: Any, grads: Any) -> Any:
    """A step on (parameters, state), as users of Optax write it."""
    params, state = held
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def lower(tx: optax.GradientTransformation, held: Any, grads: Any, _: Any) -> Any:
    """The program of a step, traced again."""
    # A new function for each call, because JAX caches what it has traced.
    program = jax.jit(lambda held, grads: step(tx, held, grads), donate_argnums=0)
    return program.lower(held, grads)


def compile_step(step: Any, held: Any, *given: Any) -> Any:
    """The compiled step, whose first argument is donated."""
    return jax.jit(step, donate_argnums=0).lower(held, *given).compile()


def bytes_a_parameter(tx: optax.GradientTransformation) -> tuple[float, float]:
    """Bytes that a step needs to move, and those that XLA's program moves.

    Needed: gradients are read, parameters and state are read and written. Moved: XLA's
    own count over all loops, for one leaf.
    """
    leaf = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    held = leaf, jax.eval_shape(tx.init, leaf)
    needed = tree_bytes(leaf) + 2 * tree_bytes(held)
    cost: Any = compile_step(partial(step, tx), held, leaf).cost_analysis() or {}
    return needed / leaf.size, cost.get("bytes accessed", needed) / leaf.size


def temporary_bytes(compiled: Any) -> float:
    """Memory of a compiled step beside its arguments; NaN if the backend can't tell."""
    found = compiled.memory_analysis()
    if found is None:
        return math.nan
    new_outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.temp_size_in_bytes + new_outputs


def tree_bytes(tree: Any) -> int:
    """Bytes of all leaves."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def race(
    contenders: Sequence[Contender],
    problem: Problem,
    needed_and_moved: tuple[float, float],
    turns: int,
) -> tuple[Times, str]:
    """A race with the bound, and in words what limits the first contender."""
    needed, moved = needed_and_moved
    times = _timing.race([*contenders, bound(needed * problem.size)], turns)
    taken, least = (float(np.median(times[x])) for x in (contenders[0].name, BOUND))
    over, a_leaf = taken / least, taken / len(problem.params)
    dispatch = f"dispatch: {1e3 * a_leaf:.3g} µs a leaf"
    if needed * problem.size < SMALL_BYTES:
        return times, dispatch
    is_bandwidth = over * needed <= 2 * moved
    if not is_bandwidth and a_leaf < DISPATCH_MS:
        return times, f"{dispatch}, {over:.2g} x bound"
    kind = "memory bandwidth" if is_bandwidth else "arithmetic, allocation"
    text = f"{moved:.3g} B a parameter of {needed:.3g} needed, {over:.2g} x bound"
    pages = _new_pages(contenders[0])
    return times, f"{kind}: {text}" + (f", {pages:,} new pages" if pages > 99 else "")


def _new_pages(contender: Contender) -> int:
    """Pages of memory that the system hands to the process in a step."""
    given = contender.prepare(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    contender.run(given)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
