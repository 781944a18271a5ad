"""Parameters of a narrow dtype that still learn from updates below their precision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax import rules
from rmsprop_optax._foundation._dtypes import wide_dtype
from rmsprop_optax._foundation._row_slices import RowSlices, get_rows, set_rows
from rmsprop_optax._foundation._trees import rebuild
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax._foundation._validation import aligned, check_parameters
from rmsprop_optax.leaves import PARAMS


def apply_updates_stochastic(params: PyTree, updates: PyTree, key: jax.Array) -> PyTree:
    r"""`optax.apply_updates`, rounding narrow parameters up or down at random.

    The sum is computed in float32, and becomes one of the two numbers around it in the
    parameter's dtype, bfloat16 or float16, with the probabilities that make it right in
    expectation. Rounded to the nearest, updates below half of the parameter's last place
    vanish: 1,000 updates of -1e-3 leave a 1.0 in bfloat16 where it is.

    Parameters of 32 bits or more are added to as `optax.apply_updates` does. Beyond the
    largest number of a dtype it is rounded to the nearest; NaN stays NaN.

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
    rows = aligned(updates, params, what=PARAMS)
    seed = jax.random.bits(key, (), jnp.uint32)
    made = [
        p if p is None or u is None else _add(p, u, seed + np.uint32(index))
        for index, (_, (u, p)) in enumerate(rows)
    ]
    return rebuild(params, made)


def _add(p: Any, update: Any, seed: jax.Array) -> jax.Array:
    p = jnp.asarray(p)
    if not isinstance(update, RowSlices):
        return _round(p, update, seed)
    rows = get_rows(p, update.indices)
    return set_rows(p, update.indices, _round(rows, update.values, seed))


def _round(p: jax.Array, update: Any, seed: jax.Array) -> jax.Array:
    if wide_dtype(p.dtype) == p.dtype:
        return jnp.asarray(p + update, p.dtype)
    total = (p.astype(jnp.float32) + update).astype(jnp.float32)
    bits = rules.dither(total.shape, rules.next_key(seed))
    return rules.round_randomly(total, p.dtype, bits)
