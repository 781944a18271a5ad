"""Division by the root of the mean square: RMSprop itself."""

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


class ScaleByRmsState(NamedTuple):
    """State of [`scale_by_rms`][rmsprop_optax.scale_by_rms].

    Attributes:
      count: Updates so far, int32.
      nu: The running mean of squared gradients, real, in the parameter's dtype or
        float32, whichever is wider; or as ``moment_storage`` says.
    """

    count: jax.Array
    nu: PyTree


def scale_by_rms(
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
    moment_storage: Storage = None,
) -> optax.GradientTransformation:
    r"""Divides each gradient by the root of the running mean of its square.

    $$ν_t = ρ ν_{t-1} + (1 - ρ) |g_t|^2$$

    $$u_t = g_t / \sqrt{ν_t + ε}$$

    or, with ``eps_in_sqrt=False``,

    $$u_t = g_t / (\sqrt{ν_t} + ε)$$

    The arguments are those of `optax.scale_by_rms`. The state differs: it has one class
    whatever the arguments, and a dtype that no gradient changes.

    Args:
      decay: $ρ$, in [0, 1).
      eps: $ε$, at least 0. With 0, a gradient that was always 0 gives 0/0.
      initial_scale: $ν_0$: 0 in Keras and PyTorch, 1 in TensorFlow 1.
      eps_in_sqrt: Whether $ε$ is added inside the root (Keras, TensorFlow 1,
        Optax) or outside (PyTorch).
      bias_correction: Whether $ν_t$ is divided by $1 - ρ^t$, as in Adam.
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
    storage = as_storage(moment_storage)

    def init_fn(params: PyTree) -> ScaleByRmsState:
        nu = init_moment(params, initial_scale, real=True, storage=storage)
        return ScaleByRmsState(count=jnp.zeros([], jnp.int32), nu=nu)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, ScaleByRmsState]:
        del params
        count = next_count(state.count)
        weight = rules.bias_correction(decay, count) if bias_correction else None

        def rule(g: jax.Array, nu: jax.Array) -> tuple[jax.Array, jax.Array]:
            nu = rules.second_moment(g, nu, decay)
            nu_hat = nu if weight is None else nu / weight.astype(nu.dtype)
            return rules.normalize(g, nu_hat, eps, eps_in_sqrt=eps_in_sqrt), nu

        updates, nu = map_moments(rule, updates, state.nu)
        return updates, ScaleByRmsState(count=count, nu=nu)

    return optax.GradientTransformation(init_fn, update_fn)
