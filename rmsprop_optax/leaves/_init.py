"""A moment for each parameter, as it is before the first step."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from rmsprop_optax import rules
from rmsprop_optax._foundation._dtypes import real_dtype, wide_dtype
from rmsprop_optax._foundation._stored import BlockCodes, Dithered
from rmsprop_optax._foundation._trees import is_leaf, leaves_with_paths, rebuild
from rmsprop_optax._foundation._types import PyTree, Scalar
from rmsprop_optax._foundation._validation import check_can_hold, check_parameters
from rmsprop_optax.leaves._blocks import block_count
from rmsprop_optax.leaves._storage import MomentStorage


def copy_params(params: PyTree) -> PyTree:
    """The parameters in float32 or wider, in memory of their own."""
    check_parameters(params)

    def copy_leaf(p: Any) -> jax.Array | None:
        return None if p is None else jnp.array(p, wide_dtype(jnp.result_type(p)))

    return jax.tree.map(copy_leaf, params, is_leaf=is_leaf)


def init_moment(
    params: PyTree,
    fill: Scalar = 0.0,
    *,
    real: bool = False,
    storage: MomentStorage | None = None,
) -> PyTree:
    """A moment for each parameter: its shape and sharding, its dtype or float32.

    ``real`` moments (of squares) are never negative, and real for complex parameters too.
    """
    check_parameters(params)

    def init_leaf(index: int, path: str, p: Any) -> Any:
        if p is None:
            return None
        dtype = wide_dtype(jnp.result_type(p))
        dtype = real_dtype(dtype) if real else dtype
        if storage is None or not storage.is_for(path, p):
            return jnp.full_like(p, fill, dtype=dtype)
        check_can_hold(path, dtype, storage.kind)
        return _init_stored(storage, p, fill, dtype, signed=not real, salt=index)

    leaves = enumerate(leaves_with_paths(params))
    return rebuild(params, [init_leaf(index, path, p) for index, (path, p) in leaves])


def _init_stored(
    storage: MomentStorage,
    p: Any,
    fill: Scalar,
    dtype: jnp.dtype,
    *,
    signed: bool,
    salt: int,
) -> Any:
    at_random = storage.rounding == "random"
    key = _key(storage.seed, 2 * salt + signed) if at_random else None
    if storage.dtype is None:
        return _init_codes(storage.block_size, p, fill, dtype, signed=signed, key=key)
    values = jnp.full_like(p, fill, dtype=storage.dtype)
    if key is None or wide_dtype(storage.dtype) == storage.dtype:
        return values
    return Dithered(values, key)


def _init_codes(
    block_size: int,
    p: Any,
    fill: Scalar,
    dtype: jnp.dtype,
    *,
    signed: bool,
    key: jax.Array | None,
) -> BlockCodes:
    codes_dtype = jnp.dtype(jnp.int8 if signed else jnp.uint8)
    blocks = block_count(jnp.shape(p)[-1], block_size)
    one = rules.block_scale(jnp.asarray(fill, dtype).reshape(1), codes_dtype)[0]
    code = jnp.where(jnp.asarray(fill) > 0, rules.largest_code(codes_dtype), 0)
    scale = jnp.full((*jnp.shape(p)[:-1], blocks), one, device=_beside(p, blocks))
    return BlockCodes(jnp.full_like(p, code, dtype=codes_dtype), scale, key)


def _beside(p: Any, blocks: int) -> jax.NamedSharding | None:
    """A sharding for the scales of a parameter: its own, where the blocks divide."""
    sharding = jax.typeof(p).sharding if isinstance(p, Tracer) else p.sharding
    if not isinstance(sharding, jax.NamedSharding) or sharding.mesh.empty:
        return None
    *lead, last = (*sharding.spec, *[None] * (jnp.ndim(p) - len(sharding.spec)))
    axes = (last,) if isinstance(last, str) else last or ()
    if blocks % math.prod(sharding.mesh.shape[axis] for axis in axes):
        last = None
    return jax.NamedSharding(sharding.mesh, jax.P(*lead, last))


def _key(seed: int, salt: int) -> jax.Array:
    start = jnp.uint32((seed * 0x632BE5AB + salt) % 2**32)
    return rules.next_key(start)
