"""PyTorch's RMSprop."""

from __future__ import annotations

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._config import RmspropConfig
from rmsprop_optax._foundation._arguments import factory
from rmsprop_optax._foundation._types import LearningRate, Mask, Scalar
from rmsprop_optax.storage import Storage


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

    $$v_t = α v_{t-1} + (1 - α) g_t^2$$

    $$b_t = μ b_{t-1} + g_t / (\sqrt{v_t} + ε)$$

    $$p_t = p_{t-1} - η_t b_t$$

    What differs from Keras: $ε$ is outside the root, the learning rate outside
    the momentum (when it drops, the accumulated momentum drops with it), and weight
    decay is coupled: $g_t ← g_t + λ p_{t-1}$ comes first.

    For parameter groups, use `optax.partition` with one ``torch(...)`` per group. A
    complex parameter counts as two real ones, as in PyTorch. But JAX's gradient of a
    real loss is the *conjugate* of PyTorch's, so conjugate complex gradients before the
    update.

    Args:
      lr: $η$: a number or scalar array; a schedule of the step (the equivalent of a
        PyTorch scheduler that is stepped after each update); or a callable without
        arguments, read at every step.
      alpha: $α$, in [0, 1).
      eps: $ε$, at least 0, outside the root.
      weight_decay: $λ$, at least 0, an L2 penalty; None: no penalty.
      momentum: $μ$, in [0, 1]. None and the number 0 mean no momentum.
      centered: Whether the variance is taken instead of the mean square. Here it can't
        turn NaN.
      capturable: Accepted, and without effect: a jitted step always is one graph.
      foreach: Accepted, and without effect: XLA fuses the leaves as it sees fit.
      maximize: Whether to go up the gradient.
      differentiable: Accepted, and without effect: JAX derives through any step.
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
    return build(
        RmspropConfig.from_arguments(
            "torch.optim.RMSprop",
            locals(),
            names={
                "lr": "learning_rate",
                "alpha": "decay",
                "weight_decay": "coupled_decay",
            },
            ignored=("capturable", "foreach", "differentiable"),
            name="torch_rmsprop",
            eps_in_sqrt=False,
            lr_in_momentum=False,
            split_complex=True,
        )
    )
