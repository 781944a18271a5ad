"""Indices that cross `jit`, `scan` and `cond` as arrays do, but can't be computed with.

An optimizer from elsewhere maps over all arrays of a gradient, and `-1 * index` is an
index too: rows would be changed that nobody looked up, and nothing would say so. JAX has
one kind of array that refuses arithmetic, typed random keys, and lets anyone define
another kind of key. Its name is what the error shows.
"""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    del args, kwargs
    raise TypeError("Row indices are no random keys.")


_SEALED = define_prng_impl(
    key_shape=(1,),
    seed=_refuse,
    split=_refuse,
    random_bits=_refuse,
    fold_in=_refuse,
    name="row_indices",
    tag=(
        "indices of RowSlices, not numbers: use the transformations of rmsprop_optax, "
        "which all take rows, or `to_dense()`"
    ),
)


def seal(indices: jax.Array) -> jax.Array:
    """Int32 indices as an array of the same shape that refuses arithmetic."""
    return jax.random.wrap_key_data(indices.astype(jnp.uint32)[..., None], impl=_SEALED)


def unseal(sealed: Any) -> Any:
    """The indices again; what stands for them in a tree (a shape, a flag) as it is."""
    if not (
        isinstance(sealed, jax.Array)
        and jnp.issubdtype(sealed.dtype, jax.dtypes.prng_key)
    ):
        return sealed
    return jax.random.key_data(sealed)[..., 0].astype(jnp.int32)
