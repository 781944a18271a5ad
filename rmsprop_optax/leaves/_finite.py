"""Whether every value of every leaf is finite."""

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.leaves._hallway import wide_leaves


def all_finite(updates: PyTree) -> jax.Array:
    """A boolean scalar: no leaf holds an infinity or a NaN."""
    verdicts = [jnp.all(jnp.isfinite(leaf)) for leaf in wide_leaves(updates)]
    return jnp.all(jnp.stack(verdicts)) if verdicts else jnp.asarray(True)
