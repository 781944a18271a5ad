"""Parameters of a narrow dtype that still learn from updates below their precision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._alignment import (
    PARAMS,
    check_parameters,
    structure_message,
)
from rmsprop_optax._foundation._dtypes import cast, wide_dtype
from rmsprop_optax._foundation._trees import align, leaves_with_paths, rebuild
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.sparse import RowSlices
from rmsprop_optax.sparse._tables import get_rows, set_rows
from rmsprop_optax.storage._rounding import hash_bits, next_seed, round_stochastically


def apply_updates_stochastic(params: PyTree, updates: PyTree, key: jax.Array) -> PyTree:
    r"""`optax.apply_updates` with stochastic rounding of bfloat16 and float16 parameters.

    The sum is computed in float32. It becomes one of the two numbers around it in the
    parameter's dtype, with the probabilities that make it right in expectation. Rounded
    to nearest, updates below half of the parameter's last place vanish: 1,000 updates of
    -1e-3 leave a bfloat16 1.0 where it is.

    Parameters of 32 bits or more are updated as `optax.apply_updates` does. Beyond the
    largest number of a dtype rounding is to nearest; NaN stays NaN. The derivative is
    that of a sum that is not rounded.

    Args:
      params: The parameters.
      updates: Their updates, of the same structure; None, and rows
        ([`RowSlices`][rmsprop_optax.sparse.RowSlices]) are fine.
      key: A key of `jax.random`, another one at each step.

    Returns:
      The new parameters, in their dtypes.

    Raises:
      ValueError: For updates that do not fit the parameters.
      TypeError: For parameters that are not floating-point or complex, and for complex
        ones of a narrow dtype.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from rmsprop_optax import apply_updates_stochastic
      >>> p = jnp.ones(10_000, jnp.bfloat16)
      >>> p = apply_updates_stochastic(p, jnp.full(10_000, 1e-3), jax.random.key(0))
      >>> print(jnp.unique(p), f"{p.astype(jnp.float32).mean():.4f}")
      [1 1.00781] 1.0010

    References:
      Zamirai et al., [Revisiting BFloat16 Training](https://arxiv.org/abs/2010.06192),
      2020.
    """
    check_parameters(params)
    seed = jax.random.bits(key, (), jnp.uint32)
    pairs = align(params, updates)
    if pairs is None:
        raise ValueError(structure_message(updates, (params,), PARAMS))
    new = [
        p if p is None or u is None else _add(path, p, u, seed + np.uint32(index))
        for index, ((path, p), (_, u)) in enumerate(
            zip(leaves_with_paths(params), pairs, strict=True)
        )
    ]
    return rebuild(params, new)


def _add(path: str, p: Any, update: Any, seed: jax.Array) -> Any:
    if jnp.shape(p) != jnp.shape(update) and not isinstance(update, RowSlices):
        raise ValueError(
            f"Update '{path}' has shape {jnp.shape(update)}, the parameter has shape "
            f"{jnp.shape(p)}."
        )
    if not isinstance(update, RowSlices):
        return _round(p, update, seed)
    rows = get_rows(jnp.asarray(p), update.indices)
    return set_rows(jnp.asarray(p), update.indices, _round(rows, update.values, seed))


def _round(p: Any, update: Any, seed: jax.Array) -> jax.Array:
    p = jnp.asarray(p)
    dtype = wide_dtype(p.dtype)
    total = cast(p, dtype) + cast(update, dtype)
    if dtype == p.dtype:
        return total
    bits = hash_bits(total.shape, next_seed(seed))
    return round_stochastically(total, p.dtype, bits)
