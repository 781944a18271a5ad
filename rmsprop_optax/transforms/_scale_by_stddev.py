"""Division by the root of the variance: centered RMSprop, without the cancellation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax import rules
from rmsprop_optax._foundation._axes import named_sharding
from rmsprop_optax._foundation._checks import (
    check_decay,
    check_flag,
    check_non_negative,
)
from rmsprop_optax._foundation._leafwise import init_moment, map_moments
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._schedules import next_count
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._state_fields import register, state_fields
from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree, Scalar


class ScaleByStddevState(NamedTuple):
    """State of [`scale_by_stddev`][rmsprop_optax.scale_by_stddev].

    Attributes:
      mu: The running mean of gradients.
      nu: The running variance of gradients, real and never negative. It is *not* the
        mean square: that is ``nu + |mu|**2``.
    """

    mu: PyTree
    nu: PyTree


class ScaleByStddevWithCountState(NamedTuple):
    """State of [`scale_by_stddev`][rmsprop_optax.scale_by_stddev] with bias correction.

    Attributes:
      count: Updates so far, int32.
      row_counts: For each parameter the updates that each of its rows has had, int32, of
        shape ``(shape[0], 1, ..., 1)``. In a dense run all of them are ``count``.
      mu: The bias-corrected mean of gradients.
      nu: ``c`` times the bias-corrected variance, where ``c = 1 - decay**row_counts``;
        the mean square without correction is ``nu + c * |mu|**2``.
    """

    count: jax.Array
    row_counts: PyTree
    mu: PyTree
    nu: PyTree


_MOMENTS = state_fields(mu="signed", nu="second_moment")
register(ScaleByStddevState, _MOMENTS)
register(ScaleByStddevWithCountState, _MOMENTS)


@recorded
def scale_by_stddev(
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> optax.GradientTransformation:
    r"""Divides each gradient by the running standard deviation of the gradient.

    $$m_t = m_{t-1} + (1 - ρ) (g_t - m_{t-1})$$

    $$w_t = ρ w_{t-1} + (1 - ρ) |g_t - m_t|^2 / ρ$$

    $$u_t = g_t / \sqrt{w_t + ε}$$

    Here $w$ is, in exact arithmetic, what every other library computes as
    $E[|g|^2] - |E[g]|^2$. That difference of two nearly equal numbers cancels: in
    float32, gradients whose spread is 1e-4 of their mean make it negative, and the root
    NaN. The sum above has no negative term.

    Args:
      decay: $ρ$, in [0, 1).
      eps: $ε$, at least 0.
      initial_scale: $w_0$, the variance before the first gradient.
      eps_in_sqrt: Whether $ε$ is added inside the root or outside.
      bias_correction: Whether mean and mean square are both divided by $1 - ρ^t$
        before they are subtracted, as in Optax. Then the first gradient has no
        variance, and the first update is $g_1 / \sqrt{ε}$.

    Returns:
      A transformation. Updates keep their dtype; it computes in float32 or wider.

    Raises:
      ValueError: For a value out of its range, or gradients that do not fit the state.
      TypeError: For a value that is not a number, or a parameter that is not
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

    def init_fn(params: PyTree) -> PyTree:
        mu = init_moment(params)
        nu = init_moment(params, initial_scale, real=True)
        if not bias_correction:
            return ScaleByStddevState(mu=mu, nu=nu)
        row_counts = jax.tree.map(_row_counts, mu, is_leaf=is_leaf)
        return ScaleByStddevWithCountState(jnp.zeros([], jnp.int32), row_counts, mu, nu)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        del params
        clock, counts = None, None
        if bias_correction:
            clock = next_count(state.count)
            counts = jax.tree.map(
                _count_update, updates, state.row_counts, is_leaf=is_leaf
            )

        def rule(
            g: jax.Array, mu: jax.Array, nu: jax.Array, count: jax.Array | None = None
        ) -> tuple[jax.Array, ...]:
            if clock is None or count is None:
                mu, nu = rules.variance(g, mu, nu, decay)
                variance = nu
            else:
                mu, nu = rules.corrected_variance(g, mu, nu, decay, count)
                variance = rules.lazy_variance(mu, nu, decay, count, clock)
            return rules.normalize(g, variance, eps, eps_in_sqrt=eps_in_sqrt), mu, nu

        new, mu, nu = map_moments(rule, updates, state.mu, state.nu, beside=counts)
        if clock is None:
            return new, ScaleByStddevState(mu=mu, nu=nu)
        return new, ScaleByStddevWithCountState(clock, counts, mu, nu)

    return check_states(optax.GradientTransformation(init_fn, update_fn))


def _row_counts(mu: Any) -> Any:
    if mu is None:
        return None
    shape = mu.shape[:1] + (1,) * (mu.ndim - 1)
    sharding = named_sharding(mu)
    if sharding is None:
        return jnp.zeros(shape, jnp.int32)
    rows = jax.NamedSharding(sharding.mesh, jax.P(*sharding.spec[:1]))
    return jnp.zeros(shape, jnp.int32, device=rows)


def _count_update(g: Any, count: Any) -> Any:
    return count if g is None else next_count(count)
