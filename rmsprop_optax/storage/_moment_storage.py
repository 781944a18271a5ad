"""How moments are stored between steps: what a user may choose, and for which leaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._checks import (
    check_choice,
    check_float_dtype,
    check_mapping,
    check_whole_number,
    factory,
)
from rmsprop_optax._foundation._state_fields import holds
from rmsprop_optax.storage._blocks import LANES
from rmsprop_optax.storage._formats import BlockFormat, FloatFormat, Format

INT8 = "int8"
_LEAST_IN_BLOCKS = 4096

Role = Literal["second_moment", "signed", "full"]


@dataclass(frozen=True)
class MomentStorage:
    """How the moments of an optimizer are stored between its steps.

    ``"int8"`` is block-wise quantization: one byte for each value, and a scale for each
    block. For a second moment, the square root is stored: the code $c$ of a value in a
    block with scale $s$ stands for $(c s)^2$. The root has 255 steps, and the largest
    root of the block is the last step. So a root is off by at most one step,
    $r_{max} / 255$ (by half a step with rounding to nearest): 0.4 % for the largest root
    of the block, 4 % for a root one tenth as large. Zero stays zero. A second moment that
    is not zero is at least one step, so no denominator vanishes. An infinity counts as
    the largest finite number. A NaN makes its block NaN, and so does a negative second
    moment. Other moments have a sign and 127 steps. Blocks are cut along the last axis,
    and codes have the shape of the parameter, so its sharding fits.

    Rounding is stochastic by default: up or down with the probabilities that make it
    right in expectation. With rounding to nearest, an average stops moving as soon as its
    steps are less than half the spacing of the stored values: in bfloat16 with a decay of
    0.999, in 8 bits with 0.99.

    The update is computed from moments before they are rounded, in float32 or wider.
    Complex moments are stored as they are.

    The derivative of a step is that of a step without rounding. From one step to the next
    it is carried in the dtype of the moment, in 16 bits with their precision and range;
    moments in 8 bits can't carry it, which is an error at such a derivative.

    Attributes:
      kind: ``"int8"``, or a floating dtype: ``"bfloat16"``, `jnp.float16`, ...
      block_size: At most how many values share a scale, at least 1. A scale is 4 bytes.
        Blocks of 128 are the layout of a TPU. ``"row"``: all values along the last axis
        share one, which costs the least on a TPU whatever the shape, and is coarser
        where columns differ in magnitude; arrays of one axis are cut into blocks of 128.
      rounding: ``"stochastic"`` or ``"nearest"``. A dtype of 32 bits or more does not
        need it.
      min_size: Moments of smaller leaves are stored unchanged. None: 0; for ``"int8"``
        4096, and leaves of one axis are stored unchanged too, whose blocks would reach
        over the rows of a table.
      exclude: A function of the path of a parameter (``encoder/bias``) and of the
        parameter. It returns True if the moments should be stored unchanged.
      fields: What the fields of the inner state hold, by name: ``"second_moment"``,
        ``"signed"``, or ``"full"`` (stored unchanged). It is already known of the classes
        of states of Optax and of this library, such as `optax.ScaleByAdamState`.
      seed: The seed of the stochastic rounding. The same seed gives the same run, to the
        bit.

    Raises:
      ValueError: For a kind or rounding of another name, or a size out of its range.
      TypeError: For a dtype that is not floating-point.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import MomentStorage, rmsprop, state_bytes
      >>> params = {"kernel": jnp.zeros((256, 512)), "bias": jnp.zeros(512)}
      >>> tx = rmsprop(moment_storage=MomentStorage("int8", block_size=128))
      >>> print(state_bytes(tx, params))
      moment    bytes  a parameter
      nu      133,120         1.01
      scales    4,100         0.03
      seed          4
      total   137,224         1.04

    References:
      Dettmers et al., [8-bit Optimizers via Block-wise
      Quantization](https://arxiv.org/abs/2110.02861), 2022, for blocks; Li et al.,
      [Memory Efficient Optimizers with 4-bit States](https://arxiv.org/abs/2309.01507),
      2023, for a second moment that never becomes zero.
    """

    kind: Any
    block_size: int | Literal["row"] = 128
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    min_size: int | None = None
    exclude: Callable[[str, Any], bool] | None = None
    fields: Mapping[str, Role] | None = field(default=None, hash=False)  # has no hash
    seed: int = 0

    def __post_init__(self) -> None:
        _check_kind("kind", self.kind)
        if not self.is_by_row:
            check_whole_number("block_size", self.block_size, least=1)
        check_choice("rounding", self.rounding, ("stochastic", "nearest"))
        if self.min_size is not None:
            check_whole_number("min_size", self.min_size, least=0)
        if self.exclude is not None and not callable(self.exclude):
            raise TypeError(
                "`exclude` must be a function of a path and a parameter, such as "
                f"`lambda path, param: path.endswith('bias')`, got {self.exclude!r}."
            )
        if self.fields is not None:
            check_mapping("fields", self.fields, partial(check_choice, choices=_CHOICES))
        check_whole_number("seed", self.seed, least=0)

    @property
    def format(self) -> Format:
        """How a moment is encoded and decoded."""
        return BlockFormat() if self.in_blocks else FloatFormat(jnp.dtype(self.kind))

    @property
    def in_blocks(self) -> bool:
        """Whether values are stored as codes in blocks."""
        return isinstance(self.kind, str) and self.kind == INT8

    @property
    def is_by_row(self) -> bool:
        """Whether a row has one scale."""
        return isinstance(self.block_size, str) and self.block_size == "row"

    def size_of_blocks(self, shape: tuple[int, ...]) -> int:
        """The largest size of a block of an array of this shape."""
        if self.is_by_row:
            return max(shape[-1], 1) if len(shape) > 1 else LANES
        return int(self.block_size)

    def role_of(self, kind: type | None, field: str) -> Role | None:
        """What a field of a class of states holds; None: nobody said."""
        said = (self.fields or {}).get(field)
        known = holds(kind, field)
        return said or ("full" if known == "sum" else known)

    def includes(self, path: str, param: Any) -> bool:
        """Whether the moments of a parameter are stored this way."""
        shape = np.shape(param) if not hasattr(param, "shape") else param.shape
        size, least, axes = int(np.prod(shape)), self.min_size or 0, 0
        if self.in_blocks:
            axes = 1  # blocks need an axis, and something on it
            if self.min_size is None:
                least, axes = _LEAST_IN_BLOCKS, 2
        if size < max(least, axes) or len(shape) < axes:
            return False
        return self.exclude is None or not self.exclude(path, param)


MomentStorage.__init__ = factory("MomentStorage")(MomentStorage.__init__)

_CHOICES = get_args(Role)

Storage: TypeAlias = MomentStorage | str | Any | None
"""A `MomentStorage`, or its ``kind`` alone; None: the parameter's dtype or float32."""


def as_storage(storage: Storage, name: str = "moment_storage") -> MomentStorage | None:
    """``storage`` as a `MomentStorage`, checked; ``name`` is for errors."""
    if storage is None or isinstance(storage, MomentStorage):
        return storage
    _check_kind(name, storage)
    return MomentStorage(storage)


def _check_kind(name: str, kind: Any) -> None:
    if not (isinstance(kind, str) and kind == INT8):
        check_float_dtype(name, kind, INT8)
