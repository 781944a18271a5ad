"""Division by the root of a moment, epsilon inside the root or outside."""

import jax

from rmsprop_optax._foundation._types import Scalar
from rmsprop_optax.rules._magnitude import safe_sqrt


def normalize(
    g: jax.Array, nu: jax.Array, eps: Scalar, *, eps_in_sqrt: bool
) -> jax.Array:
    """G / sqrt(nu + eps), or g / (sqrt(nu) + eps)."""
    if eps_in_sqrt:
        return g * jax.lax.rsqrt(nu + eps)
    return g / (safe_sqrt(nu) + eps)
