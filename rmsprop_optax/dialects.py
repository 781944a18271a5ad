"""RMSprop as each framework has it: its argument names, its order, its defaults.

To port a line, change the name of the module, and leave out the parameters if the
framework takes them. Each dialect is one set of choices for the same chain
([`describe`][rmsprop_optax.describe] prints them):

* `keras` is [`rmsprop`][rmsprop_optax.rmsprop] itself: Keras 3.
* `tf_keras_2_11` is tf.keras 2.11 to 2.15, and the package tf_keras.
* `tf_keras` is tf.keras up to 2.10, now `tf.keras.optimizers.legacy.RMSprop`.
* `tf1` is `tf.compat.v1.train.RMSPropOptimizer`.
* `torch` is `torch.optim.RMSprop`.
* `timm` is `timm.optim.RMSpropTF`.
* `optax` is `optax.rmsprop`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax._foundation._checks import (
    check_flag,
    check_has_effect,
    check_non_negative,
    check_positive,
    factory,
)
from rmsprop_optax._foundation._schedules import Rate, as_rate
from rmsprop_optax._foundation._types import Count, LearningRate, Mask, Scalar, Schedule
from rmsprop_optax._rmsprop import rmsprop as keras
from rmsprop_optax.storage import Storage

__all__ = ["keras", "optax", "tf1", "tf_keras", "tf_keras_2_11", "timm", "torch"]

_TF_EPSILON = 1e-7
_TF_NAMES = (("decay", "rho"), ("eps", "epsilon"))
_DECOUPLED_NAMES = (("learning_rate", "lr"), ("decay", "alpha"))
_TORCH_NAMES = (*_DECOUPLED_NAMES, ("coupled_decay", "weight_decay"))


def _check_ignored(**flags: bool | None) -> None:
    """Flags that the framework takes, and that have no effect here."""
    for name, value in flags.items():
        if value is not None:
            check_flag(name, value)


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
    check_flag("use_ema", use_ema)
    _check_ignored(jit_compile=jit_compile)
    return build(
        RmspropConfig(
            source="tf.keras.optimizers.RMSprop",
            names=_TF_NAMES,
            name=name,
            learning_rate=learning_rate,
            decay=rho,
            eps=epsilon,
            centered=centered,
            momentum=momentum,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency if use_ema else None,
            ema_from_initial=True,
            moment_storage=moment_storage,
        )
    )


@factory("dialects.tf_keras")
def tf_keras(
    learning_rate: LearningRate = 0.001,
    rho: Scalar = 0.9,
    momentum: Scalar | None = None,
    epsilon: Scalar | None = _TF_EPSILON,
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

    $$ν_t = ρ ν_{t-1} + (1 - ρ) g_t^2$$

    With momentum:

    $$b_t = μ b_{t-1} + η_t g_t / \sqrt{ν_t + ε}$$

    $$p_t = p_{t-1} - b_t$$

    Without:

    $$p_t = p_{t-1} - η_t g_t / (\sqrt{ν_t} + ε)$$

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
    if epsilon is not None:
        check_non_negative("epsilon", epsilon)
    if decay is not None:
        check_non_negative("decay", decay)
    if is_on(decay):
        learning_rate = _inverse_time(as_rate("learning_rate", learning_rate), decay)
    return build(
        RmspropConfig(
            source="tf.keras.optimizers.legacy.RMSprop",
            names=_TF_NAMES,
            exclusive_clips=("clipnorm", "global_clipnorm"),
            name=name,
            learning_rate=learning_rate,
            decay=rho,
            eps=epsilon if is_on(epsilon) else _TF_EPSILON,
            eps_in_sqrt=is_on(momentum),
            centered=centered,
            momentum=momentum,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            moment_storage=moment_storage,
        )
    )


def _inverse_time(rate: Rate, decay: Scalar) -> Rate:
    def decayed(count: Any) -> Any:
        steps = jnp.asarray(count, jnp.result_type(float))
        return rate(count) / (1 + decay * steps)

    return Rate(decayed, True, decayed)


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

    $$ν_t = ν_{t-1} + (1 - ρ) (g_t^2 - ν_{t-1}), ν_0 = 1$$

    $$b_t = μ b_{t-1} + η_t g_t / \sqrt{ν_t + ε}$$

    $$p_t = p_{t-1} - b_t$$

    What differs from Keras: $ν$ starts at 1, so that the first steps are short where
    gradients are small, and $ε$ is 1e-10. It is also what the kernels
    `tf.raw_ops.ResourceApplyRMSProp` and `ResourceApplyCenteredRMSProp` compute.

    Args:
      learning_rate: $η$, of every kind that [`rmsprop`][rmsprop_optax.rmsprop] takes;
        a schedule where TensorFlow has a tensor of the global step.
      decay: $ρ$, in [0, 1).
      momentum: $μ$, in [0, 1]. None and the number 0 mean no momentum.
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
    _check_ignored(use_locking=use_locking)
    return build(
        RmspropConfig(
            source="tf.compat.v1.train.RMSPropOptimizer",
            names=(("eps", "epsilon"),),
            name=name,
            learning_rate=learning_rate,
            decay=decay,
            eps=epsilon,
            initial_scale=1.0,
            centered=centered,
            momentum=momentum,
            moment_storage=moment_storage,
        )
    )


@factory("dialects.torch")
def torch(
    lr: LearningRate = 1e-2,
    alpha: Scalar = 0.99,
    eps: Scalar = 1e-8,
    weight_decay: Scalar | None = None,
    momentum: Scalar | None = None,
    centered: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    *,
    weight_decay_mask: Mask | None = None,
    moment_storage: Storage = None,
) -> Rmsprop:
    r"""`torch.optim.RMSprop`, with its arguments and its numbers.

    $$ν_t = α ν_{t-1} + (1 - α) g_t^2$$

    $$b_t = μ b_{t-1} + g_t / (\sqrt{ν_t} + ε)$$

    $$p_t = p_{t-1} - η_t b_t$$

    What differs from Keras: $ε$ is outside the root, the learning rate outside
    the momentum (when it drops, the accumulated momentum drops with it), and weight
    decay is coupled: $g_t ← g_t + λ p_{t-1}$ comes first.

    For parameter groups, use `optax.partition` with one ``torch(...)`` per group. A
    complex parameter counts as two real ones, as in PyTorch. But JAX's gradient of a
    real loss is the *conjugate* of PyTorch's, so conjugate complex gradients before the
    update.

    Args:
      lr: $η$, of every kind that [`rmsprop`][rmsprop_optax.rmsprop] takes; a schedule is
        a PyTorch scheduler that is stepped after each update.
      alpha: $α$, in [0, 1).
      eps: $ε$, at least 0, outside the root.
      weight_decay: $λ$, at least 0, an L2 penalty; None: no penalty.
      momentum: $μ$, in [0, 1]. None and the number 0 mean no momentum.
      centered: Whether the variance is taken instead of the mean square. Here it can't
        turn NaN.
      capturable: Accepted, and without effect: a jitted step always is one graph.
      foreach: Accepted, and without effect: XLA fuses the leaves as it sees fit.
      maximize: Whether to go up the gradient.
      differentiable: Accepted, and without effect: JAX derives through any step, but
        for one on moments of the step before in 8 bits.
      weight_decay_mask: Which parameters decay, as in [`rmsprop`][rmsprop_optax.rmsprop]:
        in the place of a parameter group without decay.
      moment_storage: As in [`rmsprop`][rmsprop_optax.rmsprop].

    Returns:
      A transformation; ``params`` are needed at updates with ``weight_decay``, and for
      complex leaves without a gradient.

    Raises:
      ValueError: For a value out of its range.
      TypeError: For a value of the wrong type.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_optax import dialects
      >>> tx = dialects.torch(lr=0.1, alpha=0.9)
      >>> params = jnp.array([1.0, -2.0])
      >>> updates, state = tx.update(jnp.array([0.5, -3.0]), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [ 0.6837722 -1.6837722]

      Two parameter groups, ``[{"params": head, "lr": 1e-3}, {"params": body}]``:

      >>> tx = optax.partition(
      ...     {"head": dialects.torch(lr=1e-3), "body": dialects.torch()},
      ...     {"linear": "head", "conv": "body"},
      ... )
      >>> state = tx.init({"linear": params, "conv": params})

    References:
      PyTorch 2.13, `torch/optim/rmsprop.py`.
    """
    _check_ignored(capturable=capturable, foreach=foreach, differentiable=differentiable)
    return build(
        RmspropConfig(
            source="torch.optim.RMSprop",
            names=_TORCH_NAMES,
            name="torch_rmsprop",
            learning_rate=lr,
            decay=alpha,
            eps=eps,
            eps_in_sqrt=False,
            centered=centered,
            momentum=momentum,
            lr_in_momentum=False,
            maximize=maximize,
            coupled_decay=weight_decay,
            weight_decay_mask=weight_decay_mask,
            split_complex=True,
            moment_storage=moment_storage,
        )
    )


@factory("dialects.timm")
def timm(
    lr: LearningRate = 1e-2,
    alpha: Scalar = 0.9,
    eps: Scalar = 1e-10,
    weight_decay: Scalar | None = None,
    momentum: Scalar | None = None,
    centered: bool = False,
    decoupled_decay: bool = False,
    corrected_weight_decay: bool = False,
    lr_in_momentum: bool = True,
    caution: bool = False,
    foreach: bool | None = None,
    *,
    max_lr: Scalar | None = None,
    weight_decay_mask: Mask | None = None,
    moment_storage: Storage = None,
) -> Rmsprop:
    r"""`timm.optim.RMSpropTF`, with its arguments and its numbers.

    $$ν_t = ν_{t-1} + (1 - α) (g_t^2 - ν_{t-1}), ν_0 = 1$$

    $$b_t = μ b_{t-1} + η_t g_t / \sqrt{ν_t + ε}$$

    $$p_t = p_{t-1} - b_t$$

    TensorFlow 1's update under PyTorch's argument names: $ν$ starts at 1, $ε$ is
    inside the root, and the learning rate inside the momentum.

    Args:
      lr: $η$, of every kind that [`rmsprop`][rmsprop_optax.rmsprop] takes.
      alpha: $α$, in [0, 1).
      eps: $ε$, at least 0, inside the root.
      weight_decay: $λ$, at least 0: coupled, $g_t ← g_t + λ p$, unless
        ``decoupled_decay``; None: no decay.
      momentum: $μ$, in [0, 1]. None and the number 0 mean no momentum.
      centered: Whether the variance is taken instead of the mean square.
      decoupled_decay: Whether the decay is $-η_t λ p$, beside the update.
      corrected_weight_decay: Whether the decoupled decay is
        $-η_t^2 λ p / η_{max}$; without effect on a coupled one.
      lr_in_momentum: False: $b_t = μ b_{t-1} + g_t / s$ and $p ← p - η b$.
      caution: Whether the momentum moves only where the gradient agrees, see
        [`cautious`][rmsprop_optax.cautious]; without effect if there is none.
      foreach: Accepted, and without effect: XLA fuses the leaves as it sees fit.
      max_lr: $η_{max}$. timm takes the ``lr`` that its constructor got; give it
        where ``lr`` is a callable. Not an argument of timm.
      weight_decay_mask: Which parameters decay, as in [`rmsprop`][rmsprop_optax.rmsprop]:
        in the place of a parameter group without decay.
      moment_storage: As in [`rmsprop`][rmsprop_optax.rmsprop].

    Returns:
      A transformation; ``params`` are needed at updates with ``weight_decay``.

    Raises:
      ValueError: For a value out of its range, or ``max_lr`` missing or without effect.
      TypeError: For a value of the wrong type.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_optax import dialects
      >>> tx = dialects.timm(lr=0.1)  # the first gradient: 0.5 / √(0.9 + 0.1 · 0.25)
      >>> params = jnp.array(1.0)
      >>> updates, state = tx.update(jnp.array(0.5), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      0.9480125

    References:
      timm 1.0.31, `timm/optim/rmsprop_tf.py`.
    """
    check_flag("decoupled_decay", decoupled_decay)
    check_flag("corrected_weight_decay", corrected_weight_decay)
    check_flag("caution", caution)
    _check_ignored(foreach=foreach)
    rate = as_rate("lr", lr)
    corrects = corrected_weight_decay and decoupled_decay
    if not corrects:
        check_has_effect("max_lr", max_lr, None, "a corrected, decoupled decay")
    return build(
        RmspropConfig(
            source="timm.optim.RMSpropTF",
            names=_DECOUPLED_NAMES if decoupled_decay else _TORCH_NAMES,
            name="timm_rmsprop",
            learning_rate=rate if callable(lr) else lr,
            decay=alpha,
            eps=eps,
            initial_scale=1.0,
            centered=centered,
            momentum=momentum,
            lr_in_momentum=lr_in_momentum,
            cautious=caution and is_on(momentum),
            coupled_decay=None if decoupled_decay else weight_decay,
            weight_decay=weight_decay if decoupled_decay else None,
            weight_decay_mask=weight_decay_mask,
            decay_rate=_corrected(lr, rate, max_lr) if corrects else None,
            moment_storage=moment_storage,
        )
    )


def _corrected(lr: LearningRate, rate: Rate, max_lr: Scalar | None) -> LearningRate:
    """The rate of the decay where it goes down with the square of the learning rate."""
    if max_lr is not None:
        check_positive("max_lr", max_lr)
        return rate._replace(at=lambda count: rate(count) ** 2 / max_lr)
    if callable(lr):
        raise ValueError(
            "`corrected_weight_decay=True` needs `max_lr`, the largest learning rate, "
            f"got `lr`={lr!r} and `max_lr`=None: a callable does not tell its largest "
            "value."
        )
    return rate


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
    check_flag("nesterov", nesterov)
    return build(
        RmspropConfig(
            source="optax.rmsprop",
            name="optax_rmsprop",
            learning_rate=learning_rate,
            decay=decay,
            eps=eps,
            initial_scale=initial_scale,
            eps_in_sqrt=eps_in_sqrt,
            centered=centered,
            momentum=momentum,
            nesterov=nesterov and is_on(momentum),
            bias_correction=bias_correction,
            moment_storage=moment_storage,
        )
    )
