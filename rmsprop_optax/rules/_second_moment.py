"""The running mean of squared gradients."""

import jax

from rmsprop_optax._foundation._types import Scalar
from rmsprop_optax.rules._magnitude import abs_sq


def second_moment(g: jax.Array, nu: jax.Array, decay: Scalar) -> jax.Array:
    """Nu <- decay nu + (1 - decay) |g|^2, real also where ``g`` is complex."""
    return decay * nu + (1 - decay) * abs_sq(g)
