"""tf.keras 2.11 to 2.15: Keras 3's update, and another average of the weights."""

from __future__ import annotations

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._config import RmspropConfig
from rmsprop_optax._foundation._arguments import factory
from rmsprop_optax._foundation._checks import check_flag
from rmsprop_optax._foundation._types import Count, LearningRate, Scalar, Schedule
from rmsprop_optax.storage import Storage


@factory("dialects.tf_keras_2_11")
def tf_keras_2_11(
    learning_rate: LearningRate = 0.001,
    rho: Scalar = 0.9,
    momentum: Scalar | None = None,
    epsilon: Scalar = 1e-7,
    centered: bool = False,
    weight_decay: Scalar | Schedule | None = None,
    clipnorm: Scalar | None = None,
    clipvalue: Scalar | None = None,
    global_clipnorm: Scalar | None = None,
    use_ema: bool = False,
    ema_momentum: Scalar = 0.99,
    ema_overwrite_frequency: Count | None = 100,
    jit_compile: bool | None = True,
    name: str = "RMSprop",
    *,
    moment_storage: Storage = None,
) -> Rmsprop:
    """`tf.keras.optimizers.RMSprop` of tf.keras 2.11 to 2.15, and of tf_keras.

    The update is that of Keras 3, [`rmsprop`][rmsprop_optax.rmsprop]. What differs is
    the average of the weights: it starts at the weights that ``init`` gets, not at those
    after the first step, and overwrites the weights every 100 steps if not told
    otherwise.

    Args:
      learning_rate: As in [`rmsprop`][rmsprop_optax.rmsprop], like all that follow.
      rho: The decay of the mean square.
      momentum: The decay of the momentum.
      epsilon: Inside the root.
      centered: Whether to divide by the standard deviation.
      weight_decay: Decoupled.
      clipnorm: Largest norm of the gradient of each leaf.
      clipvalue: Largest magnitude of each value.
      global_clipnorm: Largest norm of all gradients. At most one of the three can be
        given; tf.keras takes several, and ignores all but one.
      use_ema: Whether to average the weights.
      ema_momentum: The decay of that average.
      ema_overwrite_frequency: After so many steps the weights become their average;
        None: never. Without ``use_ema`` it has no effect.
      jit_compile: Accepted, and without effect: `jax.jit` compiles the step.
      name: The label of the step in traces and profiles.
      moment_storage: As in [`rmsprop`][rmsprop_optax.rmsprop].

    Returns:
      A transformation.

    Raises:
      ValueError: For a value out of its range, or two kinds of clipping.
      TypeError: For a value of the wrong type.

    Examples:
      >>> import jax.numpy as jnp
      >>> from rmsprop_optax import dialects, finalize
      >>> tx = dialects.tf_keras_2_11(0.1, use_ema=True, ema_momentum=0.5)
      >>> params = jnp.array(1.0)
      >>> updates, opt_state = tx.update(jnp.array(1.0), tx.init(params), params)
      >>> print(f"{finalize(params + updates, opt_state):.4f}")
      0.8419

    References:
      tf_keras 2.21, `tf_keras/src/optimizers/rmsprop.py` and `optimizer.py`.
    """
    arguments = locals()
    check_flag("use_ema", use_ema)
    if not use_ema:
        arguments["ema_overwrite_frequency"] = None
    return build(
        RmspropConfig.from_arguments(
            "tf.keras.optimizers.RMSprop",
            arguments,
            names={"rho": "decay", "epsilon": "eps"},
            ignored=("jit_compile",),
            ema_from_initial=True,
        )
    )
