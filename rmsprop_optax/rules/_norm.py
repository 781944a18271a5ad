"""Euclidean norms in one pass, in a unit in which squares neither overflow nor vanish."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._dtypes import common_dtype
from rmsprop_optax._foundation._types import AxisName, Scalar, Tracer
from rmsprop_optax.rules._moments import safe_sqrt


def clipping_unit(max_norm: Scalar, dtype: jnp.dtype) -> jax.Array:
    """A power of two that brings ``max_norm`` to 2^-36 (float32; 2^-288 in float64).

    There, a norm of all that float32 has below ``max_norm`` 2^100 has squares that do not
    overflow. A square that is flushed to zero is below 2^-126, so that of N elements the
    norm loses N 2^-55 of ``max_norm`` at the most: half of the last place for N = 2^30.
    """
    limits = jnp.finfo(dtype)
    if isinstance(max_norm, Tracer):
        exponent = jnp.frexp(jnp.asarray(max_norm, dtype))[1] - 1
        power = jnp.maximum(-limits.maxexp * 9 // 32 - exponent, -limits.maxexp * 5 // 8)
        unit = jnp.ldexp(jnp.ones([], dtype), power)
    else:
        exponent = math.frexp(float(max_norm))[1] - 1
        power = max(-limits.maxexp * 9 // 32 - exponent, -limits.maxexp * 5 // 8)
        unit = jnp.asarray(2.0**power, dtype)
    # Of a constant c, XLA could turn (c x)(c x) into c² (x x), which overflows.
    return jax.lax.optimization_barrier(unit)


def norm(
    xs: list[jax.Array], unit: Scalar = 1.0, axes: Sequence[AxisName] | None = None
) -> jax.Array:
    """The norm of all ``xs`` together, times ``unit``; derivative 0 at 0.

    NaN where an element is NaN, infinite where one is infinite.

    Args:
      xs: Real or complex arrays.
      unit: What each element is multiplied by; see `clipping_unit`.
      axes: For each array the mesh axes whose devices hold parts of it.
    """
    squares: dict[AxisName, jax.Array] = {}
    for x, names in zip(xs, axes or [()] * len(xs), strict=True):
        # Part by part: complex arithmetic makes NaN of an infinity.
        parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
        scaled = (part * jnp.asarray(unit, part.dtype) for part in parts)
        square = jnp.asarray(sum(jnp.sum(part * part) for part in scaled))
        before = squares.get(names)
        squares[names] = square if before is None else _add(before, square)
    total = None
    for names, square in squares.items():
        square = jax.lax.psum(square, names) if names else square
        total = square if total is None else _add(total, square)
    return safe_sqrt(jnp.zeros([]) if total is None else total)


def _add(a: jax.Array, b: jax.Array) -> jax.Array:
    dtype = common_dtype(a.dtype, b.dtype)
    return a.astype(dtype) + b.astype(dtype)
