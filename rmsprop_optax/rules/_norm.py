"""Euclidean norms that do not overflow before the norm itself does."""

import jax
import jax.numpy as jnp

from rmsprop_optax.rules._magnitude import abs_sq, safe_sqrt

# Squares overflow float32 for a single |x| > 1.8e19. Times this, they do not, for any x
# and 1e9 of them; what it flushes to zero is nothing beside a norm that large.
_DOWN = 2.0**-80


def norm(xs: list[jax.Array]) -> jax.Array:
    """The norm of all ``xs`` together: one pass, and a second where squares overflow.

    NaN where an element is NaN, infinite where one is infinite; derivative 0 at 0.
    """
    total = _sum_of_squares(xs)
    return jax.lax.cond(
        jnp.isfinite(total),
        lambda: safe_sqrt(total),
        lambda: safe_sqrt(_sum_of_squares([x * _DOWN for x in xs])) / _DOWN,
    )


def _sum_of_squares(xs: list[jax.Array]) -> jax.Array:
    return jnp.asarray(sum(jnp.sum(abs_sq(x)) for x in xs))
