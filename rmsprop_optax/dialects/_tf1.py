"""TensorFlow 1's RMSProp."""

from __future__ import annotations

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._config import RmspropConfig
from rmsprop_optax._foundation._arguments import factory
from rmsprop_optax._foundation._types import LearningRate, Scalar
from rmsprop_optax.storage import Storage


@factory("dialects.tf1")
def tf1(
    learning_rate: LearningRate,
    decay: Scalar = 0.9,
    momentum: Scalar | None = None,
    epsilon: Scalar = 1e-10,
    use_locking: bool = False,
    centered: bool = False,
    name: str = "RMSProp",
    *,
    moment_storage: Storage = None,
) -> Rmsprop:
    r"""`tf.compat.v1.train.RMSPropOptimizer`, with its arguments and its numbers.

    $$v_t = v_{t-1} + (1 - ρ) (g_t^2 - v_{t-1}), v_0 = 1$$

    $$b_t = μ b_{t-1} + η_t g_t / \sqrt{v_t + ε}$$

    $$p_t = p_{t-1} - b_t$$

    What differs from Keras: $v$ starts at 1, so that the first steps are short where
    gradients are small, and $ε$ is 1e-10. It is also what the kernels
    `tf.raw_ops.ResourceApplyRMSProp` and `ResourceApplyCenteredRMSProp` compute.

    Args:
      learning_rate: $η$, of every kind that [`rmsprop`][rmsprop_optax.rmsprop] takes;
        a schedule where TensorFlow has a tensor of the global step.
      decay: $ρ$, in [0, 1).
      momentum: $μ$, in [0, 1]. None and the number 0 mean no momentum, and no
        memory for it.
      epsilon: $ε$, at least 0, inside the root.
      use_locking: Accepted, and without effect: there are no locks in JAX.
      centered: Whether the variance is taken instead of the mean square.
      name: The label of the step in traces and profiles (`jax.named_scope`).
      moment_storage: As in [`rmsprop`][rmsprop_optax.rmsprop].

    Returns:
      A transformation.

    Raises:
      ValueError: For a value out of its range.
      TypeError: For a value of the wrong type.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_optax import dialects
      >>> tx = dialects.tf1(0.1)  # the first gradient: 0.5 / √(0.9 + 0.1 · 0.25)
      >>> params = jnp.array(1.0)
      >>> updates, state = tx.update(jnp.array(0.5), tx.init(params))
      >>> print(optax.apply_updates(params, updates))
      0.9480125

    References:
      TensorFlow 2.21, `tensorflow/python/training/rmsprop.py` and
      `tensorflow/core/kernels/training_ops.cc`.
    """
    return build(
        RmspropConfig.from_arguments(
            "tf.compat.v1.train.RMSPropOptimizer",
            locals(),
            names={"epsilon": "eps"},
            ignored=("use_locking",),
            initial_scale=1.0,
        )
    )
