"""Optax's RMSprop."""

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._formula import Formula
from rmsprop_optax._foundation._schedules import check_learning_rate
from rmsprop_optax._foundation._types import LearningRate, Scalar
from rmsprop_optax._foundation._validation import (
    check_arguments,
    check_decay,
    check_flag,
    check_non_negative,
)
from rmsprop_optax.leaves import Storage, as_storage


def optax(
    learning_rate: LearningRate,
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    moment_storage: Storage = None,
) -> Rmsprop:
    r"""`optax.rmsprop`, with its arguments and its numbers.

    $$ν_t = ρ ν_{t-1} + (1 - ρ) |g_t|^2$$

    $$b_t = μ b_{t-1} + η_t g_t / \sqrt{ν_t + ε}$$

    $$p_t = p_{t-1} - b_t$$

    What differs from Keras: the argument names, and $ε$ is 1e-8. What differs
    from Optax: centered, it can't turn NaN; and moments of bfloat16 and float16
    parameters are kept in float32.

    Args:
      learning_rate: $η$, of every kind that [`rmsprop`][rmsprop_optax.rmsprop] takes.
      decay: $ρ$, in [0, 1).
      eps: $ε$, at least 0.
      initial_scale: $ν_0$, at least 0.
      eps_in_sqrt: False adds $ε$ outside the root.
      centered: Whether the variance is taken instead of the mean square.
      momentum: $μ$, in [0, 1). The Python numbers 0 and None mean no momentum.
      nesterov: Whether the momentum is Nesterov's. Without momentum it has no effect, as
        in Optax.
      bias_correction: Whether the moments are divided by $1 - ρ^t$.
      moment_storage: How moments are kept between steps: a
        [`MomentStorage`][rmsprop_optax.MomentStorage] or its kind alone, ``"one_byte"``
        or a floating dtype; None: the parameter's dtype or float32, if that is wider.

    Returns:
      A transformation.

    Raises:
      ValueError: For a value out of its range.
      TypeError: For a value of the wrong type.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import dialects
      >>> tx = dialects.optax(learning_rate=0.1, momentum=0.9, nesterov=True)
      >>> updates, state = tx.update(jnp.array(2.0), tx.init(jnp.array(0.0)))
      >>> print(updates)
      -0.6008327

    References:
      Optax 0.2.8, `optax/_src/alias.py`.
    """
    check_arguments(locals(), _CHECKS, may_be_none=("momentum",))
    return build(
        Formula(
            source="optax.rmsprop",
            name="optax_rmsprop",
            learning_rate=learning_rate,
            decay=decay,
            eps=eps,
            eps_in_sqrt=eps_in_sqrt,
            initial_scale=initial_scale,
            centered=centered,
            bias_correction=bias_correction,
            momentum=momentum,
            nesterov=nesterov,
            moment_storage=as_storage(moment_storage),
        )
    )


_CHECKS = {
    "learning_rate": check_learning_rate,
    "decay": check_decay,
    "eps": check_non_negative,
    "initial_scale": check_non_negative,
    "eps_in_sqrt": check_flag,
    "centered": check_flag,
    "momentum": check_decay,
    "nesterov": check_flag,
    "bias_correction": check_flag,
}
