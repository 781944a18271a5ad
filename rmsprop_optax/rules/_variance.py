"""The running variance of gradients, as a sum of terms that are never negative."""

import jax
import jax.numpy as jnp

from rmsprop_optax._foundation._dtypes import by_parts
from rmsprop_optax._foundation._types import Scalar
from rmsprop_optax.rules._moments import abs_sq, bias_correction


def variance(
    g: jax.Array, mu: jax.Array, nu: jax.Array, decay: Scalar
) -> tuple[jax.Array, jax.Array]:
    """The mean ``mu`` and the variance ``nu`` after one more gradient.

    ::

        mu <- mu + (1 - decay) (g - mu)
        nu <- decay nu + (1 - decay) / decay |g - mu|^2       with the new mu

    This is West's update (1979): g minus the new mean is decay times g minus the old
    one. E|g|^2 - |E g|^2 is the same number in exact arithmetic, but cancels to noise
    and below zero as soon as the mean is large against the standard deviation.
    """
    # From the new mean, not from the old one: then nothing but this line reads the old
    # mean, and XLA updates donated moments in place. The other form copied both of them
    # at every step, and took four to seven times as long (CPU, one leaf of 16 M).
    mu = by_parts(lambda g, mu: mu + (1 - decay) * (g - mu), g, mu)
    # Where next to nothing is kept, g - mu is rounding, and dividing it would blow it up.
    keeps = decay > jnp.finfo(nu.dtype).eps
    spread = jnp.where(keeps, (1 - decay) / jnp.where(keeps, decay, 1), 0)
    nu = decay * nu + spread.astype(nu.dtype) * abs_sq(g - mu)
    return mu, nu


def corrected_variance(
    g: jax.Array, mu: jax.Array, nu: jax.Array, decay: Scalar, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The same for a bias-corrected mean; this value is the n-th, n = ``count``.

    With c_t = 1 - decay^t for the weight of t values::

        nu <- decay nu + (1 - decay) decay c_(n-1) / c_n |g - mu|^2     with the old mu
        mu <- mu + (1 - decay) / c_n (g - mu)

    ``nu`` is c_n times the corrected variance. The first mean is the first gradient to
    the last bit, so the second gradient's distance from it is exact. That from the new
    mean would be its rounding, with no earlier variance to hide it: the second update
    was wrong a hundredfold.
    """
    weight = bias_correction(decay, count)
    gain = jnp.where(count > 1, (1 - decay) / weight, 1).astype(nu.dtype)
    keep = decay * bias_correction(decay, count - 1) / weight
    deviation = g - mu
    share = jnp.asarray((1 - decay) * keep).astype(nu.dtype)
    mu = mu + by_parts(lambda part: gain * part, deviation)
    return mu, decay * nu + share * abs_sq(deviation)


def lazy_variance(
    mu: jax.Array, nu: jax.Array, decay: Scalar, count: jax.Array, clock: jax.Array
) -> jax.Array:
    """The variance v/c - |m/c|^2 where c is the weight at ``clock``, not at ``count``.

    ``mu`` and ``nu`` are what `corrected_variance` returned after ``count`` values, of
    ``clock`` steps. Where both are equal this is nu / c. A row of a table has
    fewer values than steps. Its m = mu c_count and v = nu + |mu|^2 c_count give a sum of
    two terms that are not negative::

        nu / c + |mu|^2 (c_count / c) (1 - c_count / c)
    """
    weight = bias_correction(decay, clock).astype(nu.dtype)
    share = bias_correction(decay, count).astype(nu.dtype) / weight
    # Exactly 1, which vectorized and scalar logarithms of the same number may miss.
    share = jnp.where(count == clock, 1, share)
    return nu / weight + abs_sq(mu) * (share * (1 - share))
