"""timm's RMSpropTF."""

from typing import Any

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._formula import Formula, is_on
from rmsprop_optax._foundation._schedules import as_schedule, check_learning_rate
from rmsprop_optax._foundation._types import LearningRate, Scalar, Schedule
from rmsprop_optax._foundation._validation import (
    check_arguments,
    check_decay,
    check_flag,
    check_needs,
    check_non_negative,
    check_positive,
)
from rmsprop_optax.leaves import Storage, as_storage


def timm(
    lr: LearningRate = 1e-2,
    alpha: Scalar = 0.9,
    eps: Scalar = 1e-10,
    weight_decay: Scalar = 0.0,
    momentum: Scalar = 0.0,
    centered: bool = False,
    decoupled_decay: bool = False,
    corrected_weight_decay: bool = False,
    lr_in_momentum: bool = True,
    caution: bool = False,
    foreach: bool | None = None,
    *,
    max_lr: Scalar | None = None,
    moment_storage: Storage = None,
) -> Rmsprop:
    r"""`timm.optim.RMSpropTF`, with its arguments and its numbers.

    $$v_t = v_{t-1} + (1 - α) (g_t^2 - v_{t-1}), v_0 = 1$$

    $$b_t = μ b_{t-1} + η_t g_t / \sqrt{v_t + ε}$$

    $$p_t = p_{t-1} - b_t$$

    TensorFlow 1's update under PyTorch's argument names: $v$ starts at 1, $ε$ is
    inside the root, and the learning rate inside the momentum.

    Args:
      lr: $η$, of every kind that [`rmsprop`][rmsprop_optax.rmsprop] takes.
      alpha: $α$, in [0, 1).
      eps: $ε$, at least 0, inside the root.
      weight_decay: $λ$, at least 0: coupled, $g_t ← g_t + λ p$,
        unless ``decoupled_decay``.
      momentum: $μ$, in [0, 1). The Python number 0 means no momentum.
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
      moment_storage: How moments are kept between steps: a
        [`MomentStorage`][rmsprop_optax.MomentStorage] or its kind alone, ``"one_byte"``
        or a floating dtype; None: the parameter's dtype or float32, if that is wider.

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
    check_arguments(locals(), _CHECKS, may_be_none=("foreach", "max_lr"))
    corrects = corrected_weight_decay and decoupled_decay
    if not corrects:
        check_needs("a corrected, decoupled decay", "max_lr", max_lr, None)
    return build(
        Formula(
            source="timm.optim.RMSpropTF",
            name="timm_rmsprop",
            learning_rate=lr,
            decay=alpha,
            eps=eps,
            initial_scale=1.0,
            centered=centered,
            momentum=momentum,
            lr_in_momentum=lr_in_momentum,
            cautious=caution and is_on(momentum),
            coupled_decay=None if decoupled_decay else weight_decay,
            weight_decay=weight_decay if decoupled_decay else None,
            decay_rate=_corrected(lr, max_lr) if corrects else None,
            moment_storage=as_storage(moment_storage),
        )
    )


def _corrected(lr: LearningRate, max_lr: Scalar | None) -> Schedule:
    """The rate of the decay where it goes down with the square of the learning rate."""
    if max_lr is None and callable(lr):
        raise ValueError(
            f"`corrected_weight_decay=True` needs `max_lr`, the largest learning rate, "
            f"got `lr`={lr!r} and `max_lr`=None: a callable does not tell its largest "
            "value."
        )
    rate = as_schedule(lr)
    peak: Any = lr if max_lr is None else max_lr
    return lambda count: rate(count) ** 2 / peak


_CHECKS = {
    "lr": check_learning_rate,
    "alpha": check_decay,
    "eps": check_non_negative,
    "weight_decay": check_non_negative,
    "momentum": check_decay,
    "centered": check_flag,
    "decoupled_decay": check_flag,
    "corrected_weight_decay": check_flag,
    "lr_in_momentum": check_flag,
    "caution": check_flag,
    "foreach": check_flag,
    "max_lr": check_positive,
}
