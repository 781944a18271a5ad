"""Updates for leaves that have no gradient."""

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.leaves import leaf_dtype


def zeros_for_missing() -> optax.GradientTransformation:
    """Replaces an update that is None by zeros, where the parameter is an array.

    The other transformations pass None on: no gradient, no update, moments untouched.
    But `optax.apply_updates` can't add None to an array, so this comes after them. With
    ``params=None`` it changes nothing.

    Returns:
      A transformation without state.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.zeros_for_missing()
      >>> params = {"a": jnp.array(1.0), "frozen": jnp.array(2.0)}
      >>> updates, _ = tx.update({"a": jnp.array(3.0), "frozen": None},
      ...                        tx.init(params), params)
      >>> print(updates["a"], updates["frozen"])
      3.0 0.0
    """

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, optax.EmptyState]:
        if params is None:
            return updates, state

        def fill(update: PyTree, p: PyTree) -> PyTree:
            if update is not None or p is None:
                return update
            return jnp.zeros_like(p, dtype=leaf_dtype(p))

        return jax.tree.map(fill, updates, params, is_leaf=is_leaf), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)
