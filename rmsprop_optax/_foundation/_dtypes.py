"""Which dtype computes, and which is stored."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@functools.cache
def wide_dtype(dtype: Any) -> jnp.dtype:
    """``dtype``, or float32 where that is wider."""
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        name = "float0" if dtype == jax.dtypes.float0 else dtype.name
        raise TypeError(
            f"Gradients must be floating-point or complex, got {name} (float0 is the "
            "gradient of an integer): give None for a leaf that is not trained."
        )
    if jnp.issubdtype(dtype, jnp.complexfloating) or jnp.finfo(dtype).bits >= 32:
        return dtype
    return jnp.dtype(jnp.float32)


@functools.cache
def real_dtype(dtype: Any) -> jnp.dtype:
    """The dtype of the real part."""
    return jnp.finfo(dtype).dtype


@functools.cache
def common_dtype(a: Any, b: Any) -> jnp.dtype:
    """The dtype that holds the values of both, also where JAX promotes nothing."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)


def leaf_dtype(leaf: Any) -> jnp.dtype:
    """The dtype of an update leaf, which may be a Python number."""
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def cast(x: Any, dtype: Any) -> jax.Array:
    """``x`` as an array of that dtype, and not weakly of it."""
    # Conversions from a dtype to itself were a sixth of the time of tracing a step.
    if isinstance(x, jax.Array) and x.dtype == dtype and not x.weak_type:
        return x
    return jnp.asarray(x, dtype)


def narrow(update: Any, dtype: Any) -> jax.Array:
    """``update`` in the gradient's dtype; a complex one stays complex."""
    if jnp.iscomplexobj(update) and not jnp.issubdtype(dtype, jnp.complexfloating):
        return update
    return cast(update, dtype)


def as_number(x: Any) -> jax.Array:
    """A number as an array of a strong dtype; a weak one is converted for each leaf."""
    return cast(x, jnp.result_type(x))


def by_parts(fn: Callable[..., Any], *xs: jax.Array) -> Any:
    """``fn`` of real arrays; of complex ones, of their real and of their imaginary parts.

    For products with real numbers: a complex product with a real number adds 0 times the
    other part, which is NaN where that is infinite. A complex quotient does too.
    """
    if not any(map(jnp.iscomplexobj, xs)):
        return fn(*xs)
    return jax.lax.complex(fn(*(x.real for x in xs)), fn(*(x.imag for x in xs)))


def multiplied(x: jax.Array, factor: Any) -> Any:
    """``x`` times a real number, in the precision of ``x``."""
    return by_parts(lambda part: part * real_like(factor, part), x)


def divided(x: jax.Array, divisor: Any) -> Any:
    """``x`` divided by a real number, in the precision of ``x``."""
    return by_parts(lambda part: part / real_like(divisor, part), x)


def real_like(scalar: Any, x: jax.Array) -> jax.Array:
    """A real number in the precision of ``x``, so that it can't widen ``x``."""
    return cast(scalar, real_dtype(x.dtype))
