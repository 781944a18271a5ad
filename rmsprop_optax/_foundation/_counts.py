"""Counting steps without overflow."""

import jax
import jax.numpy as jnp
import optax


def next_count(count: jax.Array) -> jax.Array:
    """``count + 1``, staying at the largest value instead of turning negative."""
    return jnp.asarray(optax.safe_increment(count))
