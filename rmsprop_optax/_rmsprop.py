"""The factory: Keras 3's RMSprop, and this library's own options."""

from __future__ import annotations

from collections.abc import Mapping

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._config import RmspropConfig
from rmsprop_optax._foundation._checks import factory
from rmsprop_optax._foundation._types import (
    AxisName,
    Count,
    LearningRate,
    Mask,
    Scalar,
    Schedule,
)
from rmsprop_optax.storage import Storage


@factory("rmsprop")
def rmsprop(
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
    ema_overwrite_frequency: Count | None = None,
    name: str = "rmsprop",
    *,
    loss_scale_factor: Scalar | None = None,
    gradient_accumulation_steps: Count | None = None,
    ema_per_update: bool = False,
    nesterov: bool = False,
    weight_decay_mask: Mask | None = None,
    eps_in_sqrt: bool = True,
    initial_scale: Scalar = 0.0,
    bias_correction: bool = False,
    skip_nonfinite: bool = False,
    accumulate_rows: Mapping[str, int] | None = None,
    moment_storage: Storage = None,
    axis_name: AxisName | None = None,
) -> Rmsprop:
    r"""RMSprop with the arguments, the defaults and the numbers of Keras 3.

    $$ν_t = ρ ν_{t-1} + (1 - ρ) |g_t|^2$$

    $$b_t = μ b_{t-1} + η_t g_t / \sqrt{ν_t + ε}$$

    $$p_t = p_{t-1} - b_t - η_t λ p_{t-1}$$

    with the gradient g, its mean square ν, the momentum b and the parameter p; the other
    letters are arguments. Parameters are any tree of floating-point or complex arrays.
    [`describe`][rmsprop_optax.describe] prints these lines with the values of a
    transformation.

    The order of the step: divide by the loss scale, average over the accumulation,
    clip (one kind), second moment or variance, learning rate, momentum, decoupled weight
    decay, average of the new weights.

    It computes in float32 or wider, and keeps moments in the parameter's dtype or
    float32, whichever is wider. Updates have the dtype of the gradients. Where a gradient
    is None, its parameter and its moments do not change. If the gradient of a table is
    [`RowSlices`][rmsprop_optax.sparse.RowSlices], only the rows in it change. This holds
    for the parameter, moments, momentum, decay and average.

    Args:
      learning_rate: $η$: a number, or an array of shape () or (1,); an Optax schedule,
        called with the number of calls of ``update`` so far; or a callable without
        arguments, read at every step, also inside a compiled step. JAX does not support
        callbacks inside `jax.checkpoint`, or in a branch under `jax.vmap`; accumulation,
        ``skip_nonfinite`` and a dynamic loss scale contain a branch. Use a schedule or
        `optax.inject_hyperparams` there.
      rho: $ρ$, the decay of the mean square, in [0, 1).
      momentum: $μ$, in [0, 1]. None and the number 0 mean no momentum, and no memory
        for it; a JAX array always has a buffer.
      epsilon: $ε$, at least 0, inside the root.
      centered: Whether to divide by the standard deviation instead, which needs one more
        moment; see [`scale_by_stddev`][rmsprop_optax.scale_by_stddev]. It can't turn NaN,
        as Keras's own does.
      weight_decay: $λ$, decoupled: a number of at least 0, or a schedule; None: none.
      clipnorm: Largest norm of the gradient of each leaf, greater than 0.
      clipvalue: Largest magnitude of each value of a gradient, greater than 0.
      global_clipnorm: Largest norm of all gradients together, greater than 0. At most
        one of the three can be given.
      use_ema: Whether to average the weights; [`finalize`][rmsprop_optax.finalize]
        returns the average.
      ema_momentum: The decay of that average, in [0, 1]. In the first iteration it is 0.
      ema_overwrite_frequency: After so many iterations the weights become their average,
        at least 1; None: never.
      name: The label of the step in traces and profiles (`jax.named_scope`).
      loss_scale_factor: What [`scale_loss`][rmsprop_optax.scale_loss] multiplies the
        loss by, and what gradients are divided by, greater than 0. For a scale that
        adapts, see [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale].
      gradient_accumulation_steps: k, at least 2: one update every k calls, with the mean
        gradient. The schedule sees calls: the t-th update (from 0) uses its value at
        t k + k - 1. The iterations of the average of the weights are calls // k.
      ema_per_update: Whether that average moves once every k calls, and not at every
        call, as in Keras.
      nesterov: Whether the momentum is Nesterov's; needs ``momentum``, which may be 0.
      weight_decay_mask: Which parameters decay: a tree of booleans, or a function of the
        parameters that returns one, such as ``exclude_paths("bias", "norm")``.
      eps_in_sqrt: False adds $ε$ outside the root, as PyTorch does.
      initial_scale: The mean square before the first step; TensorFlow 1 has 1.
      bias_correction: Whether the moments are divided by $1 - ρ^t$, as in Adam.
      skip_nonfinite: Whether to drop a call with an infinite or NaN gradient: the update
        is zero, and of the state only counters change.
      accumulate_rows: For accumulated gradients that come as
        [`RowSlices`][rmsprop_optax.sparse.RowSlices]: a mapping from the path of each
        such table to the largest number of rows that the k calls touch together.
      moment_storage: A [`MomentStorage`][rmsprop_optax.MomentStorage] or its kind,
        ``"int8"`` or a floating dtype: moments in fewer bytes; None: see above.
      axis_name: Inside `jax.shard_map`, the mesh axis (or axes) that gradients are
        sharded over: ``clipnorm`` and ``global_clipnorm`` then use the norms of whole
        gradients (see [`clip_by_global_norm`][rmsprop_optax.clip_by_global_norm]), and
        ``skip_nonfinite`` decides for all devices together.

    Returns:
      A transformation for any Optax chain: ``init(params)`` returns the state, and
      ``update(grads, state, params)`` the updates for `optax.apply_updates` and the next
      state; ``params`` is needed with ``weight_decay`` and ``use_ema``. Moments are
      read by ``optax.tree.get(state, "nu")``: ``nu`` (centered: the variance), ``mu``,
      ``trace``, ``ema``.

    Raises:
      ValueError: For values out of their range, two kinds of clipping, arguments that
        have no effect without another one; at the first trace, for gradients that do
        not fit the state, or ``params=None`` where they are needed.
      TypeError: For what is not a number, a mask that is not a tree of booleans, a
        learning-rate callable of two arguments, and, at ``init``, for parameters that
        are not floating-point or complex.

    Examples:
      One step of the seed example of tf.keras, which documents 9.683772:

      >>> import jax, jax.numpy as jnp, optax
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.rmsprop(learning_rate=0.1)
      >>> params = jnp.array(10.0)
      >>> opt_state = tx.init(params)
      >>> grads = jax.grad(lambda p: p**2 / 2)(params)
      >>> updates, opt_state = tx.update(grads, opt_state, params)
      >>> print(optax.apply_updates(params, updates))
      9.683772

      Training, with a step that is compiled:

      >>> def loss_fn(params, batch):
      ...     return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
      >>> tx = rmsprop_optax.rmsprop(0.01, momentum=0.9)
      >>> @jax.jit
      ... def step(params, opt_state, batch):
      ...     loss, grads = jax.value_and_grad(loss_fn)(params, batch)
      ...     updates, opt_state = tx.update(grads, opt_state, params)
      ...     return optax.apply_updates(params, updates), opt_state, loss
      >>> params = {"w": jnp.zeros(2)}
      >>> opt_state = tx.init(params)
      >>> batch = {"x": jnp.eye(2), "y": jnp.array([1.0, -1.0])}
      >>> for _ in range(100):
      ...     params, opt_state, loss = step(params, opt_state, batch)
      >>> print(f"{loss:.4f}")
      0.0000

    References:
      Hinton, Srivastava and Swersky, [Neural Networks for Machine Learning, lecture
      6e](https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf),
      2012; Keras 3, `keras/src/optimizers/rmsprop.py` and `base_optimizer.py`.
    """
    return build(
        RmspropConfig(
            source="keras.optimizers.RMSprop",
            names=(("decay", "rho"), ("eps", "epsilon")),
            name=name,
            learning_rate=learning_rate,
            decay=rho,
            eps=epsilon,
            eps_in_sqrt=eps_in_sqrt,
            initial_scale=initial_scale,
            centered=centered,
            bias_correction=bias_correction,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            weight_decay_mask=weight_decay_mask,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            ema_per_update=ema_per_update,
            accumulate_rows=accumulate_rows,
            skip_nonfinite=skip_nonfinite,
            moment_storage=moment_storage,
            axis_name=axis_name,
        )
    )
