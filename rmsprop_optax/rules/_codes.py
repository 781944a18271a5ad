"""One byte a value: roots in steps of a scale, one for each block.

A code c stands for the square (c s)², with the sign of c where there is one. So codes are
finest near zero: of a second moment, whose root is what counts, each step is the same.
"""

import jax
import jax.numpy as jnp


def largest_code(dtype: jnp.dtype) -> int:
    """255 for uint8, 127 for int8: the same magnitude for both signs."""
    return int(jnp.iinfo(dtype).max)


def block_scale(x: jax.Array, codes_dtype: jnp.dtype) -> jax.Array:
    """The step of the roots of each block, blocks along the last axis, which stays as 1.

    Infinite magnitudes count as the largest finite one; one NaN makes its block NaN. No
    step is so small that its square, which one code stands for, would be zero.
    """
    limits = jnp.finfo(x.dtype)
    top = jnp.minimum(_block_max(jnp.abs(x)), limits.max * (1 - 2**-10))
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
        code = jnp.floor(jnp.sqrt(square) + 0.5)
    else:
        below = jnp.floor(jnp.sqrt(square))
        above = square - below * below > chance * (2 * below + 1)
        code = below + above.astype(x.dtype)
    code = jnp.minimum(code, largest_code(dtype))
    if jnp.issubdtype(dtype, jnp.signedinteger):
        return jnp.where(x < 0, -code, code).astype(dtype)
    return jnp.maximum(code, (magnitude > 0).astype(x.dtype)).astype(dtype)


def decode(codes: jax.Array, scale: jax.Array) -> jax.Array:
    """What the codes stand for, in the dtype of the scale."""
    root = codes.astype(jnp.int32).astype(scale.dtype) * scale
    signed = jnp.issubdtype(codes.dtype, jnp.signedinteger)
    return root * (jnp.abs(root) if signed else root)


def _block_max(x: jax.Array) -> jax.Array:
    """The largest of each block of numbers that are not negative.

    By halves, and as integers, which have the order of such numbers, and NaN above all:
    then XLA on CPU makes one loop of it and of what makes ``x``, where `jnp.max` has
    that written to memory first, at three times the time of the step.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"int{x.dtype.itemsize * 8}"))
    while bits.shape[-1] > 1:
        half = 1 << ((bits.shape[-1] - 1).bit_length() - 1)
        bits = jnp.maximum(bits[..., :half], bits[..., -half:])
    return jax.lax.bitcast_convert_type(bits, x.dtype)
