"""The RMSprop of tf.keras up to 2.10."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax._foundation._arguments import factory
from rmsprop_optax._foundation._checks import check_non_negative
from rmsprop_optax._foundation._schedules import as_schedule, check_learning_rate
from rmsprop_optax._foundation._types import LearningRate, Scalar, Schedule
from rmsprop_optax.storage import Storage

_DEFAULT_EPSILON = 1e-7


@factory("dialects.tf_keras")
def tf_keras(
    learning_rate: LearningRate = 0.001,
    rho: Scalar = 0.9,
    momentum: Scalar | None = None,
    epsilon: Scalar | None = _DEFAULT_EPSILON,
    centered: bool = False,
    name: str = "RMSprop",
    *,
    clipnorm: Scalar | None = None,
    clipvalue: Scalar | None = None,
    global_clipnorm: Scalar | None = None,
    decay: Scalar | None = None,
    moment_storage: Storage = None,
) -> Rmsprop:
    r"""`tf.keras.optimizers.RMSprop` of tf.keras up to 2.10, arguments and numbers.

    $$v_t = ρ v_{t-1} + (1 - ρ) g_t^2$$

    With momentum:

    $$b_t = μ b_{t-1} + η_t g_t / \sqrt{v_t + ε}$$

    $$p_t = p_{t-1} - b_t$$

    Without:

    $$p_t = p_{t-1} - η_t g_t / (\sqrt{v_t} + ε)$$

    What differs from Keras 3: *without* momentum $ε$ is outside the root. From
    2.11 on, this class is called `tf.keras.optimizers.legacy.RMSprop` (and is in the
    package tf_keras). The class that took over its name is
    [`tf_keras_2_11`][rmsprop_optax.dialects].

    Args:
      learning_rate: $η$, of every kind that [`rmsprop`][rmsprop_optax.rmsprop] takes.
      rho: $ρ$, in [0, 1).
      momentum: $μ$, in [0, 1]. None and the number 0 mean no momentum, and move
        $ε$ out of the root. An array is a momentum, as a tensor is there.
      epsilon: $ε$, at least 0; 0 and None mean 1e-7, as there.
      centered: Whether the variance is taken instead of the mean square.
      name: The label of the step in traces and profiles (`jax.named_scope`).
      clipnorm: Largest norm of the gradient of each leaf, greater than 0.
      clipvalue: Largest magnitude of each value of a gradient, greater than 0; comes
        before either norm.
      global_clipnorm: Largest norm of all gradients together; not with ``clipnorm``.
      decay: At least 0; the learning rate is divided by ``1 + decay * t``; None: it is
        not.
      moment_storage: As in [`rmsprop`][rmsprop_optax.rmsprop].

    Returns:
      A transformation.

    Raises:
      ValueError: For a value out of its range, or both norms.
      TypeError: For a value of the wrong type.

    Examples:
      The example of its documentation, which gives 9.683772:

      >>> import jax, jax.numpy as jnp, optax
      >>> from rmsprop_optax import dialects
      >>> opt = dialects.tf_keras(learning_rate=0.1)
      >>> var1 = jnp.array(10.0)
      >>> grads = jax.grad(lambda var1: (var1**2) / 2.0)(var1)
      >>> updates, state = opt.update(grads, opt.init(var1))
      >>> print(optax.apply_updates(var1, updates))
      9.683772

    References:
      tf_keras 2.21, `tf_keras/src/optimizers/legacy/rmsprop.py` and `optimizer_v2.py`.
    """
    arguments = locals()
    check_learning_rate("learning_rate", learning_rate)
    if epsilon is not None:
        check_non_negative("epsilon", epsilon)
    if decay is not None:
        check_non_negative("decay", decay)
    if is_on(decay):
        arguments["learning_rate"] = _inverse_time(learning_rate, decay)
    return build(
        RmspropConfig.from_arguments(
            "tf.keras.optimizers.legacy.RMSprop",
            {name: value for name, value in arguments.items() if name != "decay"},
            names={"rho": "decay", "epsilon": "eps"},
            eps=epsilon if is_on(epsilon) else _DEFAULT_EPSILON,
            eps_in_sqrt=is_on(momentum),
            exclusive_clips=("clipnorm", "global_clipnorm"),
        )
    )


def _inverse_time(learning_rate: LearningRate, decay: Scalar) -> Schedule:
    rate = as_schedule(learning_rate)

    def decayed(count: Any) -> Any:
        steps = jnp.asarray(count, jnp.result_type(float))
        return rate(count) / (1 + decay * steps)

    return decayed
