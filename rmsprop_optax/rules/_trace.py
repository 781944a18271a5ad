"""Momentum: a decaying sum of updates."""

import jax

from rmsprop_optax._foundation._types import Scalar


def trace(
    g: jax.Array, trace: jax.Array, decay: Scalar, *, nesterov: bool
) -> tuple[jax.Array, jax.Array]:
    """B <- decay b + g; the update is b, or g + decay b where Nesterov's."""
    new_trace = g + decay * trace
    return (g + decay * new_trace if nesterov else new_trace), new_trace
