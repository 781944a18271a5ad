"""Optax's RMSprop."""

from __future__ import annotations

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax._foundation._arguments import factory
from rmsprop_optax._foundation._checks import check_flag
from rmsprop_optax._foundation._types import LearningRate, Scalar
from rmsprop_optax.storage import Storage


@factory("dialects.optax")
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
      momentum: $μ$, in [0, 1]. None and the number 0 mean no momentum.
      nesterov: Whether the momentum is Nesterov's. Without momentum it has no effect, as
        in Optax.
      bias_correction: Whether the moments are divided by $1 - ρ^t$.
      moment_storage: As in [`rmsprop`][rmsprop_optax.rmsprop].

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
    arguments = locals()
    check_flag("nesterov", nesterov)
    return build(
        RmspropConfig.from_arguments(
            "optax.rmsprop",
            arguments,
            name="optax_rmsprop",
            nesterov=nesterov and is_on(momentum),
        )
    )
