"""One rounding for a whole chain, instead of one for each of its stages."""

from typing import Any

import jax
import optax

from rmsprop_optax._foundation._dtypes import cast, wide_dtype
from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.leaves import leaf_dtype, map_values, narrow


def in_float32(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Runs ``inner`` on gradients widened to float32, and rounds its updates once.

    Each transformation returns updates in the dtype in which they came. In a chain of
    them, bfloat16 gradients would be rounded after every stage; inside this, they are
    rounded at its end. Wider gradients pass as they are.

    Args:
      inner: The transformation, usually a chain.

    Returns:
      A transformation with the state of ``inner``. Extra arguments go to ``inner``.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import rmsprop_optax
      >>> g = jnp.array(1.0, jnp.bfloat16)
      >>> slower = rmsprop_optax.scale_by_learning_rate(0.998, flip_sign=False)
      >>> tx = optax.chain(*[slower] * 10)  # 0.998**10 = 0.9802
      >>> print(tx.update(g, tx.init(g))[0])
      0.976562
      >>> print(rmsprop_optax.in_float32(tx).update(g, tx.init(g))[0])
      0.980469
    """
    inner = optax.with_extra_args_support(inner)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        wide = jax.tree.map(_widen, updates, is_leaf=is_leaf)
        made, state = inner.update(wide, state, params, **extra_args)
        return jax.tree.map(_round_to, updates, made, is_leaf=is_leaf), state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _widen(update: Any) -> Any:
    dtype = None if update is None else wide_dtype(leaf_dtype(update))
    return map_values(lambda values: cast(values, dtype), update) if dtype else None


def _round_to(update: Any, made: PyTree) -> PyTree:
    """``made`` in the dtype of ``update``; a leaf without a gradient as it was made."""
    return made if update is None else narrow(made, leaf_dtype(update))
