"""The exponential moving average of a value."""

import jax

from rmsprop_optax._foundation._types import Scalar


def average(value: jax.Array, ema: jax.Array, decay: Scalar) -> jax.Array:
    """Decay ema + (1 - decay) value, finite where decay is 0 and ``ema`` arbitrary."""
    return decay * ema + (1 - decay) * value
