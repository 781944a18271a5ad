"""Optimizer state in fewer bytes, around any transformation.

[`low_precision`][rmsprop_optax.low_precision] decodes the moments of the inner state,
runs the inner update, and encodes them again. A format says how: every floating dtype,
and 8 bits with a scale for each block of values.
"""

from rmsprop_optax.storage._apply_updates import apply_updates_stochastic
from rmsprop_optax.storage._low_precision import (
    LowPrecisionState,
    decode_state,
    encode_state,
    low_precision,
)
from rmsprop_optax.storage._moment_storage import MomentStorage, Storage

__all__ = [
    "LowPrecisionState",
    "MomentStorage",
    "Storage",
    "apply_updates_stochastic",
    "decode_state",
    "encode_state",
    "low_precision",
]
