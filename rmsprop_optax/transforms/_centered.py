"""Division by the root of the variance: centered RMSprop, without the cancellation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax import rules
from rmsprop_optax._foundation._counts import next_count
from rmsprop_optax._foundation._types import PyTree, Scalar
from rmsprop_optax._foundation._validation import (
    check_decay,
    check_flag,
    check_non_negative,
)
from rmsprop_optax.leaves import Storage, as_storage, init_moment, map_moments


class ScaleByStddevState(NamedTuple):
    """State of [`scale_by_stddev`][rmsprop_optax.scale_by_stddev].

    Attributes:
      count: Updates so far, int32.
      mu: The running mean of gradients; bias-corrected where the transformation is.
      nu: The running variance of gradients, real and never negative. It is *not* the
        mean square: that is ``nu + |mu|**2`` (with bias correction, where ``c = 1 -
        decay**count``: ``nu + c * |mu|**2``).
    """

    count: jax.Array
    mu: PyTree
    nu: PyTree


def scale_by_stddev(
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
    moment_storage: Storage = None,
) -> optax.GradientTransformation:
    r"""Divides each gradient by the running standard deviation of the gradient.

    $$μ_t = μ_{t-1} + (1 - ρ) (g_t - μ_{t-1})$$

    $$ν_t = ρ ν_{t-1} + (1 - ρ) |g_t - μ_t|^2 / ρ$$

    $$u_t = g_t / \sqrt{ν_t + ε}$$

    Here $ν$ is, in exact arithmetic, what every other library computes as
    $E[|g|^2] - |E[g]|^2$. That difference of two nearly equal numbers cancels: in
    float32, gradients whose spread is 1e-4 of their mean make it negative, and the root
    NaN. The sum above has no negative term.

    Args:
      decay: $ρ$, in [0, 1).
      eps: $ε$, at least 0.
      initial_scale: $ν_0$, the variance before the first gradient.
      eps_in_sqrt: Whether $ε$ is added inside the root or outside.
      bias_correction: Whether mean and mean square are both divided by $1 - ρ^t$
        before they are subtracted, as in Optax. Then the first gradient has no
        variance, and the first update is $g_1 / \sqrt{ε}$.
      moment_storage: How moments are kept between steps: a
        [`MomentStorage`][rmsprop_optax.MomentStorage] or its kind alone, ``"one_byte"``
        or a floating dtype; None: the parameter's dtype or float32, if that is wider.

    Returns:
      A transformation. Updates keep their dtype; it computes in float32 or wider.

    Raises:
      ValueError: For a value out of its range, or gradients that do not fit the state.
      TypeError: For a value that is no number, or a parameter that is not
        floating-point or complex.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.scale_by_stddev(decay=0.5, eps=0.0)
      >>> updates, state = tx.update(jnp.array(4.0), tx.init(jnp.array(0.0)))
      >>> print(updates, state.mu, state.nu)
      2.0 2.0 4.0

    References:
      Graves, [Generating Sequences With Recurrent Neural
      Networks](https://arxiv.org/abs/1308.0850), 2013, section 4.2; West, Updating mean
      and variance estimates: an improved method, Communications of the ACM 22(9), 1979.
    """
    check_decay("decay", decay)
    check_non_negative("eps", eps)
    check_non_negative("initial_scale", initial_scale)
    check_flag("eps_in_sqrt", eps_in_sqrt)
    check_flag("bias_correction", bias_correction)
    storage = as_storage(moment_storage)

    def init_fn(params: PyTree) -> ScaleByStddevState:
        return ScaleByStddevState(
            count=jnp.zeros([], jnp.int32),
            mu=init_moment(params, storage=storage),
            nu=init_moment(params, initial_scale, real=True, storage=storage),
        )

    variance = rules.corrected_variance if bias_correction else rules.variance

    def shares(count: jax.Array) -> tuple[Scalar, Scalar, Scalar]:
        """The weight of the past, and what the mean takes of new and old."""
        if not bias_correction:
            return 1.0, 1 - decay, decay
        weight = rules.bias_correction(decay, count)
        gain = jnp.where(count > 1, (1 - decay) / weight, 1)
        return weight, gain, decay * rules.bias_correction(decay, count - 1) / weight

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, ScaleByStddevState]:
        del params
        count = next_count(state.count)
        weight, gain, keep = shares(count)

        def rule(g: jax.Array, mu: jax.Array, nu: jax.Array) -> tuple[jax.Array, ...]:
            mu, nu = variance(g, mu, nu, decay, gain, keep)
            update = rules.normalize(g, nu / weight, eps, eps_in_sqrt=eps_in_sqrt)
            return update, mu, nu

        updates, mu, nu = map_moments(rule, updates, state.mu, state.nu)
        return updates, ScaleByStddevState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init_fn, update_fn)
