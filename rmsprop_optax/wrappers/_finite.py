"""Whether every value of every gradient is finite."""

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._axes import bound_axes
from rmsprop_optax._foundation._trees import is_inexact
from rmsprop_optax._foundation._types import AxisName, PyTree


def all_finite(updates: PyTree, axis_name: AxisName | None = None) -> jax.Array:
    """A boolean scalar: no leaf holds an infinity or a NaN, on any device of an axis."""
    leaves = [leaf for leaf in jax.tree.leaves(updates) if is_inexact(leaf)]
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
    here = jnp.all(jnp.stack(finite)) if finite else jnp.asarray(True)
    if axis_name is None:
        return here
    return jax.lax.pmin(here.astype(jnp.int32), bound_axes(axis_name)) == 1
