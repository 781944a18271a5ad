"""|x|^2 and roots whose derivatives are finite everywhere."""

import jax
import jax.numpy as jnp


def abs_sq(x: jax.Array) -> jax.Array:
    """|x|^2, real, for real and complex ``x``: one formula, and no root to derive."""
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else x * x


def safe_sqrt(x: jax.Array) -> jax.Array:
    """The root of ``x`` >= 0, with derivative 0 at 0 instead of infinity.

    The plain root's infinite derivative meets the zero derivative of a square in the
    chain rule, and 0 * inf is NaN: meta-gradients through a step at g = 0.
    """
    is_zero = x == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, x)))
