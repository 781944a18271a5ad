"""Euclidean norms that do not overflow before the norm itself does."""

import functools

import jax
import jax.numpy as jnp

from rmsprop_optax.rules._magnitude import abs_sq, safe_sqrt


def sum_of_squares(x: jax.Array) -> jax.Array:
    """Sum |x|^2, which overflows float32 for a single |x| > 1.8e19."""
    return jnp.sum(abs_sq(x))


def rescaled_norm(xs: list[jax.Array]) -> jax.Array:
    """The norm of all ``xs`` together, through their largest magnitude: two passes."""
    magnitudes = [jnp.max(jnp.abs(x), initial=0.0) for x in xs]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, magnitudes))
    usable = jnp.isfinite(top) & (top > 0)
    scale = jnp.where(usable, top, 1)
    total = sum(sum_of_squares(x / scale.astype(x.real.dtype)) for x in xs)
    return jnp.where(usable, scale * safe_sqrt(jnp.asarray(total)), top)


def norm(xs: list[jax.Array]) -> jax.Array:
    """The norm of all ``xs`` together: one pass, and a second where squares overflow.

    NaN where an element is NaN, infinite where one is infinite; derivative 0 at 0.
    """
    total = jnp.asarray(sum(sum_of_squares(x) for x in xs))
    return jax.lax.cond(
        jnp.isfinite(total),
        lambda: safe_sqrt(total),
        lambda: rescaled_norm(xs).astype(total.dtype),
    )
