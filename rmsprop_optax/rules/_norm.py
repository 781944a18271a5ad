"""Euclidean norms that neither overflow nor vanish before the norm itself does."""

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._types import AxisName
from rmsprop_optax.rules._moments import safe_sqrt


def norm(xs: list[jax.Array]) -> jax.Array:
    """The norm of all ``xs`` together: one pass, and one more where squares misfit.

    In float32 they overflow for |x| > 1.8e19, and go under for |x| < 1e-19. NaN where an
    element is NaN, infinite where one is infinite; derivative 0 at 0.
    """
    parts = [part for x in xs for part in _parts(x)]
    total = _sum_of_squares(parts)
    limits = jnp.finfo(total.dtype)
    fits = jnp.isfinite(total) & (total > limits.tiny / limits.eps**2)
    return jax.lax.cond(fits, lambda: safe_sqrt(total), lambda: _scaled(parts, total))


def norm_over_devices(local: jax.Array, axis_name: AxisName) -> jax.Array:
    """The joint norm of what the devices along an axis hold, from the norm of each.

    The same on all of them. In units of the largest, so that no square overflows.
    """
    unit = _unit(jax.lax.pmax(jax.lax.stop_gradient(local), axis_name))
    return safe_sqrt(jax.lax.psum((local / unit) ** 2, axis_name)) * unit


def _scaled(parts: list[jax.Array], total: jax.Array) -> jax.Array:
    """The norm in a unit that brings squares that are too large, or small, to the middle.

    A power of two, 2^80 or 2^-80 in float32: 2^31 squares of the largest number are below
    infinity then, and that of the smallest is not zero. Chosen in the program: of a
    constant c, XLA may turn (c x)(c x) into c^2 (x x), which overflows.
    """
    power = jnp.finfo(total.dtype).maxexp * 5 // 8
    unit = jnp.where(total > 1, 2.0**power, 2.0**-power).astype(total.dtype)
    return safe_sqrt(_sum_of_squares([x / unit for x in parts])) * unit


def _unit(top: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(top) & (top > 0), top, 1)


def _sum_of_squares(parts: list[jax.Array]) -> jax.Array:
    return jnp.asarray(sum(jnp.sum(x * x) for x in parts))


def _parts(x: jax.Array) -> tuple[jax.Array, ...]:
    """Real arrays, because complex arithmetic makes NaN of an infinity."""
    return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
