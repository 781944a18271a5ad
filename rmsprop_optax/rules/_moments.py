"""Running means, their bias correction, and division by the root of a mean square."""

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._dtypes import by_parts
from rmsprop_optax._foundation._types import Scalar


def average(value: jax.Array, ema: jax.Array, decay: Scalar) -> jax.Array:
    """decay ema + (1 - decay) value; finite where decay is 0 and ``ema`` is anything."""
    return by_parts(lambda ema, value: decay * ema + (1 - decay) * value, ema, value)


def second_moment(g: jax.Array, nu: jax.Array, decay: Scalar) -> jax.Array:
    """decay nu + (1 - decay) |g|^2, real also where ``g`` is complex."""
    return decay * nu + (1 - decay) * abs_sq(g)


def bias_correction(decay: Scalar, count: jax.Array) -> jax.Array:
    """1 - decay^count: the weight of a running mean from zero after ``count`` values.

    0 where ``count`` is 0. Through expm1 and log1p: in float32, 1 - 0.9999^1 is wrong by
    2e-4 of its value.
    """
    log = jnp.log1p(jnp.asarray(decay - 1.0))
    weight = -jnp.expm1(count.astype(log.dtype) * log)
    return jnp.where(count > 0, weight, 0.0)


def normalize(
    g: jax.Array, nu: jax.Array, eps: Scalar, *, eps_in_sqrt: bool
) -> jax.Array:
    """g / sqrt(nu + eps), or g / (sqrt(nu) + eps)."""
    if eps_in_sqrt:
        inverse = jax.lax.rsqrt(nu + eps)
        return by_parts(lambda part: part * inverse, g)
    root = safe_sqrt(nu) + eps
    return by_parts(lambda part: part / root, g)


def abs_sq(x: jax.Array) -> jax.Array:
    """|x|^2, real, for real and complex ``x``: one formula, and no root to derive."""
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else x * x


def safe_sqrt(x: jax.Array) -> jax.Array:
    """The root of ``x`` >= 0, with derivative 0 at 0 instead of infinity.

    The chain rule multiplies the infinite derivative of the plain root by the zero
    derivative of a square, and 0 * inf is NaN: meta-gradients through a step at g = 0.
    """
    is_zero = x == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, x)))
