"""The running variance of gradients, as a sum of terms that are never negative."""

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._types import Scalar
from rmsprop_optax.rules._magnitude import abs_sq


def variance(
    g: jax.Array, mu: jax.Array, nu: jax.Array, decay: Scalar, gain: Scalar, keep: Scalar
) -> tuple[jax.Array, jax.Array]:
    """The mean ``mu`` and the weighted variance ``nu`` after one more gradient.

    ``gain`` is the share of the new gradient in the mean, ``keep`` = 1 - gain that of the
    mean before: 1 - decay and decay for plain running means::

        mu <- mu + gain (g - mu)
        nu <- decay nu + (1 - decay) / keep |g - mu|^2       with the new mu

    This is West's update (1979): g minus the new mean is keep times g minus the old one.
    E|g|^2 - |E g|^2 is the same number in exact arithmetic, but cancels to noise and
    below zero as soon as the mean is large against the standard deviation.
    """
    # From the new mean, not from the old one: then nothing but this line reads the old
    # mean, and XLA updates donated moments in place. The other form copied both of them
    # at every step, and took four to seven times as long (CPU, one leaf of 16 M).
    mu = mu + gain * (g - mu)
    # Where next to nothing is kept, g - mu is rounding, and dividing it would blow it up.
    keeps = keep > jnp.finfo(nu.dtype).eps
    spread = jnp.where(keeps, (1 - decay) / jnp.where(keeps, keep, 1), 0)
    nu = decay * nu + spread.astype(nu.dtype) * abs_sq(g - mu)
    return mu, nu


def corrected_variance(
    g: jax.Array, mu: jax.Array, nu: jax.Array, decay: Scalar, gain: Scalar, keep: Scalar
) -> tuple[jax.Array, jax.Array]:
    """The same for a bias-corrected mean, by the distance from the old one.

    With the weights c_t = 1 - decay^t, ``gain`` = (1 - decay) / c_t and ``keep`` =
    decay c_(t-1) / c_t; ``nu`` is c_t times the corrected variance::

        nu <- decay nu + (1 - decay) keep |g - mu|^2         with the old mu
        mu <- mu + gain (g - mu)

    The first mean is the first gradient to the last bit, so the second gradient's
    distance from it is exact. That from the new mean would be its rounding, with no
    earlier variance to hide it: the second update was wrong a hundredfold.
    """
    deviation = g - mu
    share = jnp.asarray((1 - decay) * keep).astype(nu.dtype)
    return mu + gain * deviation, decay * nu + share * abs_sq(deviation)
