"""Which dtype computes, and which keeps."""

from typing import Any

import jax.numpy as jnp


def wide_dtype(dtype: Any) -> jnp.dtype:
    """``dtype``, or float32 where that is wider."""
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.complexfloating) or jnp.finfo(dtype).bits >= 32:
        return dtype
    return jnp.dtype(jnp.float32)


def real_dtype(dtype: Any) -> jnp.dtype:
    """The dtype of the real part."""
    return jnp.finfo(dtype).dtype
