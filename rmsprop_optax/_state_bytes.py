"""The bytes of an optimizer state, by moment and by leaf."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
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
    """The bytes of a state; ``str`` of it is a table of the moments.

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
        moments: Counter[str] = Counter()
        for (moment, _), size in self.by_leaf.items():
            moments[moment] += size
        return dict(moments)

    @property
    def per_parameter(self) -> float:
        """Bytes of state for each number of the parameters; NaN without parameters."""
        size = sum(self.sizes.values())
        return self.total / size if size else math.nan

    def __str__(self) -> str:
        of_leaves = {moment for moment, leaf in self.by_leaf if leaf}
        size = sum(self.sizes.values())
        moments = self.by_moment.items()
        rows = [((name,), n, size if name in of_leaves else 0) for name, n in moments]
        return _table(("moment",), [*rows, (("total",), self.total, size)])

    def leaves(self) -> str:
        """The table with a line for each moment of each parameter."""
        rows = [
            (place, n, self.sizes.get(place[1], 0)) for place, n in self.by_leaf.items()
        ]
        total = ("total", ""), self.total, sum(self.sizes.values())
        return _table(("moment", "leaf"), [*rows, total])


def _table(
    titles: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], int, int]]
) -> str:
    """Lines of names, bytes, and bytes for each of so many numbers."""
    lines = [(*titles, "bytes", "a parameter")]
    for names, n, size in rows:
        lines.append((*names, f"{n:,}", f"{n / size:.2f}" if size else ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    signs = ["<"] * len(titles) + [">", ">"]
    return "\n".join(
        "  ".join(map("{:{}{}}".format, line, signs, widths)).rstrip() for line in lines
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
      >>> print(found)  # `found.leaves()` has a line for each parameter
      moment   bytes  a parameter
      mu       4,000         4.00
      nu       4,000         4.00
      trace    4,000         4.00
      total   12,000        12.00
      >>> found.by_leaf["trace", "w"]
      4000
    """
    check_transformation("tx", tx)
    state = eval_shape(tx.init, params)
    leaves = leaves_with_keys(state, is_leaf=None)
    found: Counter[tuple[str, str]] = Counter()
    owners = owners_of(tx.init, params, state)
    for (keys, leaf), owner in zip(leaves, owners, strict=True):
        fields = [key.name for key in keys if isinstance(key, jax.tree_util.GetAttrKey)]
        place = fields[-1] if fields else "state", ""
        if owner is not None:
            place = owner.part.field or "state", path_of(owner.keys)
        found[place] += leaf.size * leaf.dtype.itemsize
    in_order = sorted(found, key=lambda place: not place[1])
    sizes = {
        path_of(keys): math.prod(np.shape(leaf))
        for keys, leaf in leaves_with_keys(params)
        if hasattr(leaf, "shape") or is_inexact(leaf)
    }
    return StateBytes({x: found[x] for x in in_order if found[x]}, sizes)
