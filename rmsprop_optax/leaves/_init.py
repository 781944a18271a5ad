"""How a moment is kept between steps: its dtype, fixed at `init`."""

from typing import Any

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree, Scalar
from rmsprop_optax._foundation._validation import check_parameters


def wide_dtype(dtype: Any) -> jnp.dtype:
    """``dtype``, or float32 where that is wider."""
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.complexfloating) or jnp.finfo(dtype).bits >= 32:
        return dtype
    return jnp.dtype(jnp.float32)


def real_dtype(dtype: Any) -> jnp.dtype:
    """The dtype of the real part."""
    return jnp.finfo(dtype).dtype


def copy_params(params: PyTree) -> PyTree:
    """The parameters in float32 or wider, in memory of their own."""
    check_parameters(params)

    def copy_leaf(p: Any) -> jax.Array | None:
        return None if p is None else jnp.array(p, wide_dtype(jnp.result_type(p)))

    return jax.tree.map(copy_leaf, params, is_leaf=is_leaf)


def init_moment(params: PyTree, fill: Scalar = 0.0, *, real: bool = False) -> PyTree:
    """A moment for each parameter: its shape and sharding, its dtype or float32.

    ``real`` moments (of squares) are real for complex parameters too.
    """
    check_parameters(params)

    def init_leaf(p: Any) -> jax.Array | None:
        if p is None:
            return None
        dtype = wide_dtype(jnp.result_type(p))
        return jnp.full_like(p, fill, dtype=real_dtype(dtype) if real else dtype)

    return jax.tree.map(init_leaf, params, is_leaf=is_leaf)
