"""8-bit codes of roots, in steps of a scale, one scale for each block.

A code c stands for the square (c s)², with the sign of c where there is one. So codes are
finest near zero. What counts of a second moment is its root, and that has even steps.
"""

import math

import jax
import jax.numpy as jnp


def largest_code(dtype: jnp.dtype) -> int:
    """255 for uint8, 127 for int8: the same magnitude for both signs."""
    return int(jnp.iinfo(dtype).max)


def block_scale(x: jax.Array, codes_dtype: jnp.dtype) -> jax.Array:
    """The step of the roots of each block, blocks along the last axis, which stays as 1.

    Infinite magnitudes count as the largest finite one; one NaN makes its block NaN, as
    does a negative number where codes have no sign. No step is so small that its square,
    which one code stands for, would be zero.
    """
    limits = jnp.finfo(x.dtype)
    signed = jnp.issubdtype(codes_dtype, jnp.signedinteger)
    magnitude = jnp.abs(x) if signed else jnp.where(x < 0, jnp.nan, x)
    top = jnp.minimum(_block_max(magnitude), limits.max * (1 - 2**-10))
    step = jnp.sqrt(top) / largest_code(codes_dtype)
    return jnp.maximum(step, jnp.sqrt(limits.tiny) * (1 + 2**-10))


def encode(
    x: jax.Array, scale: jax.Array, dtype: jnp.dtype, chance: jax.Array | None = None
) -> jax.Array:
    """The codes of ``x``, in uint8 where it has no sign, else in int8.

    ``chance``, in [0, 1), decides between the codes below and above, so that what they
    stand for is ``x`` in expectation; None: the nearest root. What is not zero and has
    no sign never gets code 0, nor an infinity one beyond the last.
    """
    magnitude = jnp.abs(x)
    square = magnitude * (1 / (scale * scale))
    if chance is None:
        code = _to_integer(jnp.floor(jnp.sqrt(square) + 0.5))
    else:
        below = jnp.floor(jnp.sqrt(square))
        above = square - below * below > chance * (2 * below + 1)
        code = _to_integer(below) + above.astype(_integers(x.dtype))
    code = jnp.minimum(code, largest_code(dtype))
    if jnp.issubdtype(dtype, jnp.signedinteger):
        return jnp.where(x < 0, -code, code).astype(dtype)
    return jnp.maximum(code, (magnitude > 0).astype(code.dtype)).astype(dtype)


def decode(codes: jax.Array, scale: jax.Array) -> jax.Array:
    """What the codes stand for, in the dtype of the scale."""
    root = codes.astype(jnp.int32).astype(scale.dtype) * scale
    signed = jnp.issubdtype(codes.dtype, jnp.signedinteger)
    return root * (jnp.abs(root) if signed else root)


def _to_integer(x: jax.Array) -> jax.Array:
    """Whole numbers from 0 as integers; the caller cuts those above the largest code.

    Read off the bits of x + 2^23 (or 2^52), in which they are the last ones: XLA's own
    conversion asks each number whether it is one, and whether it fits.
    """
    limits = jnp.finfo(x.dtype)
    base = jnp.asarray(2.0**limits.nmant, x.dtype)
    bits = [jax.lax.bitcast_convert_type(n, _integers(x.dtype)) for n in (x + base, base)]
    return bits[0] - bits[1]


def _block_max(x: jax.Array) -> jax.Array:
    """The largest of each block of numbers that are not negative.

    XLA on CPU needs a form of its own. With `jnp.max` it writes ``x`` to memory first,
    and a step takes twice the time.
    """
    return jax.lax.platform_dependent(
        x, cpu=_max_by_quarters, default=lambda x: jnp.max(x, axis=-1, keepdims=True)
    )


def _max_by_quarters(x: jax.Array) -> jax.Array:
    """The largest of each block, which XLA on CPU computes in the loop of ``x``.

    As integers, which have the order of numbers that are not negative, with NaN above
    all. The quarters of quarters are a loop of their own.
    """
    bits = _max_of_quarters(jax.lax.bitcast_convert_type(x, _integers(x.dtype)))
    bits = jax.lax.optimization_barrier(bits)
    while bits.shape[-1] > 1:
        bits = _max_of_quarters(bits)
    return jax.lax.bitcast_convert_type(bits, x.dtype)


def _max_of_quarters(x: jax.Array) -> jax.Array:
    size = x.shape[-1]
    width = math.ceil(size / 4)
    starts = [min(part * width, size - width) for part in range(4)]
    first, second, third, last = (x[..., s : s + width] for s in starts)
    return jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, last))


def _integers(dtype: jnp.dtype) -> jnp.dtype:
    """Those of the same width."""
    return jnp.dtype(f"int{dtype.itemsize * 8}")
