"""timm's RMSpropTF."""

from __future__ import annotations

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax._foundation._arguments import factory
from rmsprop_optax._foundation._checks import (
    check_flag,
    check_has_effect,
    check_positive,
)
from rmsprop_optax._foundation._schedules import as_schedule, check_learning_rate
from rmsprop_optax._foundation._types import LearningRate, Mask, Scalar
from rmsprop_optax.storage import Storage


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

    $$v_t = v_{t-1} + (1 - α) (g_t^2 - v_{t-1}), v_0 = 1$$

    $$b_t = μ b_{t-1} + η_t g_t / \sqrt{v_t + ε}$$

    $$p_t = p_{t-1} - b_t$$

    TensorFlow 1's update under PyTorch's argument names: $v$ starts at 1, $ε$ is
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
    arguments = locals()
    own = ("decoupled_decay", "corrected_weight_decay", "caution", "max_lr")
    for name in own[:3]:
        check_flag(name, arguments[name])
    check_learning_rate("lr", lr)
    corrects = corrected_weight_decay and decoupled_decay
    if not corrects:
        check_has_effect("max_lr", max_lr, None, "a corrected, decoupled decay")
    decay = "weight_decay" if decoupled_decay else "coupled_decay"
    return build(
        RmspropConfig.from_arguments(
            "timm.optim.RMSpropTF",
            {name: value for name, value in arguments.items() if name not in own},
            names={"lr": "learning_rate", "alpha": "decay", "weight_decay": decay},
            ignored=("foreach",),
            name="timm_rmsprop",
            initial_scale=1.0,
            cautious=caution and is_on(momentum),
            decay_rate=_corrected(lr, max_lr) if corrects else None,
        )
    )


def _corrected(lr: LearningRate, max_lr: Scalar | None) -> LearningRate:
    """The rate of the decay where it goes down with the square of the learning rate."""
    if max_lr is not None:
        check_positive("max_lr", max_lr)
    elif callable(lr):
        raise ValueError(
            "`corrected_weight_decay=True` needs `max_lr`, the largest learning rate, "
            f"got `lr`={lr!r} and `max_lr`=None: a callable does not tell its largest "
            "value."
        )
    if not callable(lr):
        return lr if max_lr is None else lr**2 / max_lr
    rate = as_schedule(lr)
    return lambda count: rate(count) ** 2 / max_lr
