"""Indices that pass through `jit`, `scan` and `cond` as arrays, but refuse arithmetic.

A transformation that knows nothing of rows maps over all arrays of a gradient, and
`-1 * index` is an index too: it would change rows that nobody looked up, without an
error. JAX has one kind of array that refuses arithmetic, typed random keys, and lets
anyone define another kind of key. Its name is what the error shows.
"""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl  # noqa: TID251


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    del args, kwargs
    raise TypeError("Neither row indices nor a table are random keys.")


def _opaque(words: int, tag: str) -> Any:
    """A kind of key that holds some 32-bit words; JAX's errors show its tag."""
    return define_prng_impl(
        key_shape=(words,),
        seed=_refuse,
        split=_refuse,
        random_bits=_refuse,
        fold_in=_refuse,
        name="row_indices",
        tag=tag,
    )


_INDICES = _opaque(
    1,
    "indices of RowSlices, not numbers: wrap the transformation in "
    "`rmsprop_optax.sparse.lazy`, or call `to_dense()` on the gradient",
)
_SHAPE = _opaque(
    0,
    "a table that is looked up by rows: read it by `rmsprop_optax.sparse.lookup` only, "
    "or leave it out of the `ids` of `value_and_grad`",
)


def wrap_indices(indices: jax.Array) -> jax.Array:
    """Int32 indices as an array of the same shape that refuses arithmetic."""
    return jax.random.wrap_key_data(indices.astype(jnp.uint32)[..., None], impl=_INDICES)


def shape_alone(shape: tuple[int, ...]) -> jax.Array:
    """An array of that shape that holds no byte, and refuses arithmetic."""
    return jax.random.wrap_key_data(jnp.zeros((*shape, 0), jnp.uint32), impl=_SHAPE)


def unwrap_indices(wrapped: Any) -> Any:
    """The indices again; what stands for them in a tree (a shape, a flag) as it is."""
    if not (
        isinstance(wrapped, jax.Array)
        and jnp.issubdtype(wrapped.dtype, jax.dtypes.prng_key)
    ):
        return wrapped
    return jax.random.key_data(wrapped)[..., 0].astype(jnp.int32)
