"""Updates for leaves that have no gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._trees import is_inexact, is_leaf
from rmsprop_optax._foundation._types import PyTree


@recorded
def zeros_for_missing() -> optax.GradientTransformation:
    """Replaces an update that is None by zeros, where the parameter is a float array.

    Other transformations pass None on: no gradient, no update, no change of a moment.
    `optax.apply_updates` can't add None to an array, so this comes last. With
    ``params=None``, and for leaves that can't be trained, it changes nothing.

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
            if update is not None or not is_inexact(p):
                return update
            return jnp.zeros_like(p, jnp.result_type(p))

        return jax.tree.map(fill, updates, params, is_leaf=is_leaf), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)
