"""How moments are kept between steps: what a user may choose, and for which leaf."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp

from rmsprop_optax._foundation._validation import (
    check_choice,
    check_float_dtype,
    check_whole_number,
)

ONE_BYTE = "one_byte"
_LEAST_IN_BYTES = 4096


@dataclass(frozen=True)
class MomentStorage:
    """How the moments of an optimizer are kept between its steps.

    ``"one_byte"`` keeps a byte a value and a scale a block. The code $c$ of a value in a
    block with scale $s$ stands for $(c s)^2$: of a second moment, the root is kept, in
    255 steps, the largest of the block being the last. So a root is off by at most one
    step, $r_{max} / 255$ (to the nearest, half of one): 0.4 % for the largest of its
    block, 4 % for one of a tenth of it. Zero stays zero; what is not zero is at
    least one step, so no denominator vanishes; what is infinite counts as the largest
    finite number; NaN makes its block NaN. Means and momentum have a sign and 127 steps.
    Blocks are cut along the last axis, and codes have the shape of the parameter, so its
    sharding fits.

    Rounding is at random by default, up or down with the probabilities that make it
    right in expectation. Rounded to the nearest, an average stands still as soon as its
    steps are less than half of what the storage can tell apart: in bfloat16 with a decay
    of 0.999, in one byte with 0.99.

    What is rounded is what the next step starts from; the update itself is made of
    moments as they were computed, in float32 or wider.

    Attributes:
      kind: ``"one_byte"``, or a floating dtype: ``"bfloat16"``, `jnp.float16`, ...
      block_size: At most how many values share a scale, at least 1. A scale is 4 bytes.
      rounding: ``"random"``, or ``"nearest"``. A dtype of 32 bits or more has no need.
      min_size: Smaller leaves are kept as without this; None: 4096 for one byte, else 0.
      keep_wide: A function of the path of a parameter (``encoder/bias``) and of the
        parameter: True where its moments are to be kept as without this.
      seed: Of the rounding. The same seed gives the same run, to the bit.

    Raises:
      ValueError: For a kind or rounding of another name, or a size out of its range; at
        ``init``, for a moment that the kind can't hold.
      TypeError: For a dtype that is not floating-point.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import MomentStorage, rmsprop, state_bytes
      >>> params = {"kernel": jnp.zeros((256, 512)), "bias": jnp.zeros(512)}
      >>> tx = rmsprop(moment_storage=MomentStorage("one_byte", block_size=128))
      >>> print(state_bytes(tx, params))
      moment  leaf      bytes  a parameter
      nu      bias      2,048         4.00
      nu      kernel  135,172         1.03
      count                 8
      total           137,228         1.04

    References:
      Dettmers et al., [8-bit Optimizers via Block-wise
      Quantization](https://arxiv.org/abs/2110.02861), 2022, for blocks; Li et al.,
      [Memory Efficient Optimizers with 4-bit States](https://arxiv.org/abs/2309.01507),
      2023, for a second moment that never becomes zero.
    """

    kind: Any
    block_size: int = 64
    rounding: Literal["random", "nearest"] = "random"
    min_size: int | None = None
    keep_wide: Callable[[str, Any], bool] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind != ONE_BYTE:
            check_float_dtype("moment_storage", self.kind, ONE_BYTE)
        check_whole_number("block_size", self.block_size, least=1)
        check_choice("rounding", self.rounding, ("random", "nearest"))
        if self.min_size is not None:
            check_whole_number("min_size", self.min_size, least=0)
        check_whole_number("seed", self.seed, least=0)

    @property
    def dtype(self) -> jnp.dtype | None:
        """The dtype in which moments are kept; None: one byte."""
        return None if self.kind == ONE_BYTE else jnp.dtype(self.kind)

    def is_for(self, path: str, param: Any) -> bool:
        """Whether the moments of a parameter are kept so."""
        if jnp.size(param) < self._least or not self._fits(param):
            return False
        return self.keep_wide is None or not self.keep_wide(path, param)

    @property
    def _least(self) -> int:
        if self.min_size is None:
            return _LEAST_IN_BYTES if self.dtype is None else 0
        return self.min_size

    def _fits(self, param: Any) -> bool:
        """Blocks need an axis, and something on it."""
        return self.dtype is not None or (jnp.ndim(param) > 0 and jnp.size(param) > 0)


Storage: TypeAlias = MomentStorage | str | Any | None
"""A `MomentStorage`, or its ``kind`` alone; None: the parameter's dtype or float32."""


def as_storage(given: Storage) -> MomentStorage | None:
    """``given`` as a `MomentStorage`, checked."""
    if given is None or isinstance(given, MomentStorage):
        return given
    return MomentStorage(given)
