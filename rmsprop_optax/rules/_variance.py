"""The running variance of gradients, as a sum of terms that are never negative."""

import jax

from rmsprop_optax._foundation._types import Scalar
from rmsprop_optax.rules._magnitude import abs_sq


def variance(
    g: jax.Array,
    mu: jax.Array,
    nu: jax.Array,
    decay: Scalar,
    previous_weight: Scalar,
    weight: Scalar,
) -> tuple[jax.Array, jax.Array]:
    """The mean ``mu`` and the weighted variance ``nu`` after one more gradient.

    With d = g - mu and the weights c_(t-1), c_t of the two running sums::

        nu <- decay (nu + (1 - decay) c_(t-1) / c_t |d|^2)
        mu <- mu + (1 - decay) / c_t d

    c = 1 for plain running means, 1 - decay^t for bias-corrected ones (West 1979).
    E|g|^2 - |E g|^2 is the same number in exact arithmetic, but cancels to noise and
    below zero as soon as the mean is large against the standard deviation.
    """
    deviation = g - mu
    spread = (1 - decay) * (previous_weight / weight)
    nu = decay * (nu + spread * abs_sq(deviation))
    mu = mu + ((1 - decay) / weight) * deviation
    return mu, nu
