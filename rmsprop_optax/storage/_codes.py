"""8-bit codes of roots, in steps of a scale, one scale for each block.

A code c stands for the square (c s)², with the sign of c where there is one. So codes are
finest near zero. What counts of a second moment is its root, and that has even steps.
"""

import jax
import jax.numpy as jnp


def largest_code(dtype: jnp.dtype) -> int:
    """255 for uint8, 127 for int8: the same magnitude for both signs."""
    return int(jnp.iinfo(dtype).max)


def magnitude(x: jax.Array, codes_dtype: jnp.dtype) -> jax.Array:
    """|x|; NaN for a negative number where codes have no sign."""
    signed = jnp.issubdtype(codes_dtype, jnp.signedinteger)
    return jnp.abs(x) if signed else jnp.where(x < 0, jnp.nan, x)


def scale_of(top: jax.Array, codes_dtype: jnp.dtype) -> jax.Array:
    """The step of the roots of a block, from its largest magnitude.

    An infinite one counts as the largest finite one; NaN stays NaN. No step is so small
    that its square, which one code stands for, would be zero.
    """
    limits = jnp.finfo(top.dtype)
    top = jnp.minimum(top, limits.max * (1 - 2**-10))
    step = jnp.sqrt(top) / largest_code(codes_dtype)
    return jnp.maximum(step, jnp.sqrt(limits.tiny) * (1 + 2**-10))


def unit_of(top: jax.Array, codes_dtype: jnp.dtype) -> jax.Array:
    """1 over what code 1 stands for: 1 / scale², up to rounding.

    It does not read the scale: so XLA for GPU computes that at the end, in the place of
    the old one, and need not copy the old one first.
    """
    limits = jnp.finfo(top.dtype)
    top = jnp.minimum(top, limits.max * (1 - 2**-10))
    square = top / largest_code(codes_dtype) ** 2
    return 1 / jnp.maximum(square, limits.tiny * (1 + 2**-10) ** 2)


def encode(
    x: jax.Array, unit: jax.Array, dtype: jnp.dtype, chance: jax.Array | None = None
) -> jax.Array:
    """The codes of ``x``, in uint8 where it has no sign, else in int8.

    ``unit`` is that of the block, in each place. ``chance``, in [0, 1), decides between
    the codes below and above, so that what they stand for is ``x`` in expectation; None:
    the nearest root. What is not zero and has no sign never gets code 0, nor an infinity
    one beyond the last.
    """
    # Where codes have a sign, this is the one place that reads `x`: XLA for GPU writes an
    # array to memory if a loop reads it twice.
    signed = x * unit
    square = jnp.abs(signed)
    if chance is None:
        code = _to_integer(jnp.floor(jnp.sqrt(square) + 0.5))
    else:
        below = jnp.floor(jnp.sqrt(square))
        above = square - below * below > chance * (2 * below + 1)
        code = _to_integer(below) + above.astype(_integers(x.dtype))
    code = jnp.minimum(code, largest_code(dtype))
    if jnp.issubdtype(dtype, jnp.signedinteger):
        return jnp.where(signed < 0, -code, code).astype(dtype)
    return jnp.maximum(code, (x > 0).astype(code.dtype)).astype(dtype)


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


def _integers(dtype: jnp.dtype) -> jnp.dtype:
    """Those of the same width."""
    return jnp.dtype(f"int{dtype.itemsize * 8}")
