"""Whether every value of every leaf is finite."""

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._types import PyTree


def all_finite(updates: PyTree) -> jax.Array:
    """A boolean scalar: no leaf holds an infinity or a NaN."""
    verdicts = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(updates)]
    return jnp.all(jnp.stack(verdicts)) if verdicts else jnp.asarray(True)
