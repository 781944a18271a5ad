"""Division by the root of the mean square: RMSprop itself."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax import rules
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
from rmsprop_optax._foundation._types import PyTree, Scalar


class ScaleByRmsWithCountState(NamedTuple):
    """State of [`scale_by_rms`][rmsprop_optax.scale_by_rms] with bias correction.

    Attributes:
      count: Updates so far, int32.
      nu: The running mean of squared gradients.
    """

    count: jax.Array
    nu: PyTree


register(ScaleByRmsWithCountState, state_fields(nu="second_moment"))


@recorded
def scale_by_rms(
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> optax.GradientTransformation:
    r"""Divides each gradient by the root of the running mean of its square.

    $$ν_t = ρ ν_{t-1} + (1 - ρ) |g_t|^2$$

    $$u_t = g_t / \sqrt{ν_t + ε}$$

    or, with ``eps_in_sqrt=False``,

    $$u_t = g_t / (\sqrt{ν_t} + ε)$$

    The arguments and the state are those of `optax.scale_by_rms`. It differs in three
    things: ``nu`` keeps the parameter's dtype or float32, whichever is wider, whatever
    dtype the gradients have; a gradient that is None leaves its ``nu`` alone; and the
    derivative of the update is finite where ``nu`` is 0.

    Args:
      decay: $ρ$, in [0, 1).
      eps: $ε$, at least 0. With 0, a gradient that was always 0 gives 0/0.
      initial_scale: $ν_0$: 0 in Keras and PyTorch, 1 in TensorFlow 1.
      eps_in_sqrt: Whether $ε$ is added inside the root (Keras, TensorFlow 1,
        Optax) or outside (PyTorch).
      bias_correction: Whether $ν_t$ is divided by $1 - ρ^t$, as in Adam.

    Returns:
      A transformation. Its state is an `optax.ScaleByRmsState`, or with
      ``bias_correction`` a `ScaleByRmsWithCountState`. Updates keep their dtype;
      it computes in float32 or wider.

    Raises:
      ValueError: For a value out of its range, or gradients that do not fit the state.
      TypeError: For a value that is not a number, or a parameter that is not
        floating-point or complex.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.scale_by_rms(decay=0.75, eps=0.0)
      >>> params = jnp.zeros(2)
      >>> updates, state = tx.update(jnp.array([3.0, -0.5]), tx.init(params))
      >>> print(updates)
      [ 2. -2.]

    References:
      Hinton, Srivastava and Swersky, [Neural Networks for Machine Learning, lecture
      6e](https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf),
      2012; Keras 3, `keras/src/optimizers/rmsprop.py`.
    """
    check_decay("decay", decay)
    check_non_negative("eps", eps)
    check_non_negative("initial_scale", initial_scale)
    check_flag("eps_in_sqrt", eps_in_sqrt)
    check_flag("bias_correction", bias_correction)

    def init_fn(params: PyTree) -> PyTree:
        nu = init_moment(params, initial_scale, real=True)
        if not bias_correction:
            return optax.ScaleByRmsState(nu=nu)
        return ScaleByRmsWithCountState(count=jnp.zeros([], jnp.int32), nu=nu)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        del params
        count, weight = None, None
        if bias_correction:
            count = next_count(state.count)
            weight = rules.bias_correction(decay, count)

        def rule(g: jax.Array, nu: jax.Array) -> tuple[jax.Array, jax.Array]:
            nu = rules.second_moment(g, nu, decay)
            nu_hat = nu if weight is None else nu / weight.astype(nu.dtype)
            return rules.normalize(g, nu_hat, eps, eps_in_sqrt=eps_in_sqrt), nu

        updates, nu = map_moments(rule, updates, state.nu)
        if count is None:
            return updates, optax.ScaleByRmsState(nu=nu)
        return updates, ScaleByRmsWithCountState(count=count, nu=nu)

    return check_states(optax.GradientTransformation(init_fn, update_fn))
