"""The floor: what a step must read and write, at the speed of the memory beside it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks._timing import Contender

NAME = "floor"
ROW = 1024


def step_bytes(
    tx: optax.GradientTransformation, shapes: Sequence[tuple[int, ...]]
) -> int:
    """Bytes of a step in float32: gradients are read, all else is read and written.

    Args:
      tx: Whose state counts.
      shapes: Of the parameters.
    """
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    held = tree_bytes(params) + tree_bytes(jax.eval_shape(tx.init, params))
    return tree_bytes(params) + 2 * held


def tree_bytes(tree: Any) -> int:
    """Of all leaves together."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def contender(moved: int, steps: int) -> Contender:
    """An addition to an array, in place, that reads and writes so many bytes in all."""
    # In rows: XLA on CPU is several times slower on one long row of an odd length.
    held = [jnp.zeros((math.ceil(moved / (8 * ROW)), ROW), jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run(_: Any) -> None:
        held[0] = add(held[0]).block_until_ready()

    return Contender(NAME, lambda drawn: drawn, run, steps)
