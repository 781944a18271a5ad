"""Moments that are kept as something else than an array of their values."""

from typing import Any, NamedTuple, TypeAlias

import jax


class BlockCodes(NamedTuple):
    """One byte a value, and a scale for each block along the last axis.

    A code c of a block with scale s stands for (c s)², or, signed, for ±(c s)².

    Attributes:
      codes: Uint8, or int8 for a moment that has a sign, in the parameter's own shape.
      scale: One for each block: the parameter's shape, with the number of blocks in the
        place of the last axis; real, in the parameter's dtype or float32.
      key: Uint32, from which the next rounding is drawn; None: rounded to the nearest.
    """

    codes: jax.Array
    scale: jax.Array
    key: jax.Array | None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the parameter."""
        return self.codes.shape

    @property
    def arrays(self) -> dict[str, jax.Array]:
        """What has the parameter's rows, by its name."""
        return {"codes": self.codes, "scale": self.scale}


class Dithered(NamedTuple):
    """Values of a narrow dtype, rounded up or down at random.

    Attributes:
      values: In the parameter's shape.
      key: Uint32, from which the next rounding is drawn.
    """

    values: jax.Array
    key: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the parameter."""
        return self.values.shape

    @property
    def arrays(self) -> dict[str, jax.Array]:
        """What has the parameter's rows, by its name."""
        return {"values": self.values}


Stored: TypeAlias = BlockCodes | Dithered


def is_stored(node: Any) -> bool:
    """Whether a moment is not simply an array."""
    return isinstance(node, (BlockCodes, Dithered))
