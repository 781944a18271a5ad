"""Whether every value of every leaf is finite."""

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._axes import bound_axes
from rmsprop_optax._foundation._types import AxisName, PyTree
from rmsprop_optax.leaves._hallway import wide_leaves


def all_finite(updates: PyTree, axis_name: AxisName | None = None) -> jax.Array:
    """A boolean scalar: no leaf holds an infinity or a NaN, on any device of an axis."""
    verdicts = [jnp.all(jnp.isfinite(leaf)) for leaf in wide_leaves(updates)]
    here = jnp.all(jnp.stack(verdicts)) if verdicts else jnp.asarray(True)
    if axis_name is None:
        return here
    return jax.lax.pmin(here.astype(jnp.int32), bound_axes(axis_name)) == 1
