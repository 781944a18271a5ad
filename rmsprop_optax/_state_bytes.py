"""The bytes of an optimizer state, by moment and by leaf."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
import optax

from rmsprop_optax._foundation._checks import check_transformation
from rmsprop_optax._foundation._state_leaves import owners_of
from rmsprop_optax._foundation._trees import (
    eval_shape,
    is_inexact,
    leaves_with_keys,
    path_of,
)
from rmsprop_optax._foundation._types import PyTree


@dataclass(frozen=True)
class StateBytes:
    """The bytes of a state; ``str`` of it is a table.

    Attributes:
      by_leaf: Bytes by moment and parameter: ``{("nu", "encoder/kernel"): 1024}``. What
        belongs to no parameter has "" there.
      sizes: How many numbers each parameter has, by its path.
    """

    by_leaf: Mapping[tuple[str, str], int]
    sizes: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes of the whole state."""
        return sum(self.by_leaf.values())

    @property
    def by_moment(self) -> dict[str, int]:
        """Bytes by the name of the moment."""
        moments = dict.fromkeys((moment for moment, _ in self.by_leaf), 0)
        for (moment, _), size in self.by_leaf.items():
            moments[moment] += size
        return moments

    @property
    def per_parameter(self) -> float:
        """Bytes of state for each number of the parameters; NaN without parameters."""
        size = sum(self.sizes.values())
        return self.total / size if size else math.nan

    def __str__(self) -> str:
        rows = [("moment", "leaf", "bytes", "a parameter")]
        for (moment, leaf), size in self.by_leaf.items():
            share = f"{size / self.sizes[leaf]:.2f}" if self.sizes.get(leaf) else ""
            rows.append((moment, leaf, f"{size:,}", share))
        rows.append(("total", "", f"{self.total:,}", f"{self.per_parameter:.2f}"))
        a, b, c, d = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join(
            f"{moment:<{a}}  {leaf:<{b}}  {size:>{c}}  {share:>{d}}".rstrip()
            for moment, leaf, size, share in rows
        )


def state_bytes(tx: optax.GradientTransformation, params: PyTree) -> StateBytes:
    """The bytes that the state of a transformation takes, before there is one.

    Args:
      tx: Any transformation, also a chain with parts from elsewhere.
      params: The parameters, or their shapes (`jax.eval_shape`): nothing is allocated.

    Returns:
      The bytes by moment, by leaf and in total. What is replicated on several devices
      counts once, as if there were one.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import rmsprop, state_bytes
      >>> params = {"w": jnp.zeros((100, 10))}
      >>> found = state_bytes(rmsprop(momentum=0.9, centered=True), params)
      >>> print(found)
      moment  leaf   bytes  a parameter
      mu      w      4,000         4.00
      nu      w      4,000         4.00
      trace   w      4,000         4.00
      total         12,000        12.00
      >>> found.by_moment["trace"]
      4000
    """
    check_transformation("tx", tx)
    state = eval_shape(tx.init, params)
    leaves, owners = leaves_with_keys(state, is_leaf=None), owners_of(tx, params, state)
    found: dict[tuple[str, str], int] = {}
    for (keys, leaf), owner in zip(leaves, owners, strict=True):
        fields = [key.name for key in keys if isinstance(key, jax.tree_util.GetAttrKey)]
        place = fields[-1] if fields else "state", ""
        if owner is not None:
            place = owner.part.field or "state", path_of(owner.keys)
        found[place] = found.get(place, 0) + leaf.size * leaf.dtype.itemsize
    nonzero = {place: size for place, size in found.items() if size}
    in_order = sorted(nonzero, key=lambda place: not place[1])
    sizes = {
        path_of(keys): math.prod(np.shape(leaf))
        for keys, leaf in leaves_with_keys(params)
        if hasattr(leaf, "shape") or is_inexact(leaf)
    }
    return StateBytes({place: nonzero[place] for place in in_order}, sizes)
