"""The factory: Keras 3's RMSprop, and this library's own options."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from rmsprop_optax._chain import Rmsprop, build
from rmsprop_optax._formula import Formula, is_on
from rmsprop_optax._foundation._axes import check_axis_name
from rmsprop_optax._foundation._schedules import check_learning_rate
from rmsprop_optax._foundation._types import AxisName, Count, LearningRate, Mask, Scalar
from rmsprop_optax._foundation._validation import (
    check_arguments,
    check_at_most_one,
    check_closed_decay,
    check_decay,
    check_flag,
    check_name,
    check_needs,
    check_non_negative,
    check_positive,
    check_whole_number,
)
from rmsprop_optax.leaves import Storage, as_storage


def rmsprop(
    learning_rate: LearningRate = 0.001,
    rho: Scalar = 0.9,
    momentum: Scalar | None = 0.0,
    epsilon: Scalar = 1e-7,
    centered: bool = False,
    weight_decay: Scalar | None = None,
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
    letters are arguments, and named there. Parameters are any tree of floating-point or
    complex arrays. [`describe`][rmsprop_optax.describe] prints these lines with the
    values that were given.

    A gradient flows through: the inverse of the loss scale, the mean over the
    accumulation, one kind of clipping, the second moment (or the variance), the learning
    rate, the momentum, decoupled weight decay, the average of the new weights.

    It computes in float32 or wider, and keeps moments in the parameter's dtype or
    float32, whichever is wider. Updates have the dtype of the gradients. A gradient leaf
    that is None leaves its parameter and its moments as they are; one that is
    [`RowSlices`][rmsprop_optax.sparse.RowSlices] leaves all rows so that are not in it:
    moments, momentum, decay and average move only in rows that are.

    Args:
      learning_rate: $η$: a number or scalar array; an Optax schedule, called with the
        number of calls of ``update`` so far; or a callable without arguments, read at
        every step, out of a compiled one too.
      rho: $ρ$, the decay of the mean square, in [0, 1).
      momentum: $μ$, in [0, 1). The Python numbers 0 and None mean no momentum, and
        no memory for it; an array always has both.
      epsilon: $ε$, at least 0, inside the root.
      centered: Whether to divide by the standard deviation instead, at the price of one
        more moment; see [`scale_by_stddev`][rmsprop_optax.scale_by_stddev]. It can't
        turn NaN, as Keras's own does.
      weight_decay: $λ$, at least 0, decoupled; None or the Python number 0: none.
      clipnorm: Largest norm of the gradient of each leaf, greater than 0.
      clipvalue: Largest magnitude of each value of a gradient, greater than 0.
      global_clipnorm: Largest norm of all gradients together, greater than 0. At most
        one of the three can be given.
      use_ema: Whether to average the weights; [`finalize`][rmsprop_optax.finalize] gets
        the average.
      ema_momentum: The decay of that average, in [0, 1]. In the first iteration it is 0.
      ema_overwrite_frequency: After so many iterations the weights become their average,
        at least 1; None: never.
      name: The label of the step in traces and profiles (`jax.named_scope`).
      loss_scale_factor: What [`scale_loss`][rmsprop_optax.scale_loss] multiplies the
        loss by, and what gradients are divided by, greater than 0. For a scale that
        adapts, see [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale].
      gradient_accumulation_steps: k, at least 2: one update every k calls, with the mean
        gradient. The schedule sees calls: the t-th update (from 0) uses its value at
        t k + k - 1. The average of the weights moves at every call, as in Keras, and
        its iterations are calls // k.
      nesterov: Whether the momentum is Nesterov's; needs ``momentum``.
      weight_decay_mask: Which parameters decay: a tree of booleans, or a function that
        makes one, such as ``exclude_paths("bias", "norm")``.
      eps_in_sqrt: False adds $ε$ outside the root, as PyTorch does.
      initial_scale: The mean square before the first step; TensorFlow 1 has 1.
      bias_correction: Whether the moments are divided by $1 - ρ^t$, as in Adam.
      skip_nonfinite: Whether a call with an infinite or NaN gradient is dropped: a zero
        update, and a state as if it had not been, but for a counter.
      accumulate_rows: Where gradients are accumulated and some come as
        [`RowSlices`][rmsprop_optax.sparse.RowSlices]: by the path of each such table, how
        many rows the k calls touch together at the most.
      moment_storage: How moments are kept between steps: a
        [`MomentStorage`][rmsprop_optax.MomentStorage] or its kind alone, ``"one_byte"``
        or a floating dtype; None: the parameter's dtype or float32, if that is wider.
      axis_name: Inside of `jax.shard_map`, the mesh axis (or axes) that gradients are
        sharded over: ``clipnorm`` and ``global_clipnorm`` then measure whole gradients
        (see [`clip_by_global_norm`][rmsprop_optax.clip_by_global_norm]), and
        ``skip_nonfinite`` has one verdict for all devices.

    Returns:
      A transformation for any Optax chain: ``init(params)`` makes the state, and
      ``update(grads, state, params)`` gives updates for `optax.apply_updates` and the
      next state; ``params`` is needed with ``weight_decay`` and ``use_ema``. Moments are
      read by ``optax.tree.get(state, "nu")``: ``nu`` (centered: the variance), ``mu``,
      ``trace``, ``ema``.

    Raises:
      ValueError: For values out of their range, two kinds of clipping, arguments that
        have no effect without another one; at the first trace, for gradients that do
        not fit the state, or ``params=None`` where they are needed.
      TypeError: For a number that is none, a learning-rate callable of two arguments,
        and, at ``init``, for parameters that are not floating-point or complex.

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
    _check_arguments(locals())
    return build(
        Formula(
            source="keras.optimizers.RMSprop",
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
            clipvalue=clipvalue,
            clipnorm=clipnorm,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            skip_nonfinite=skip_nonfinite,
            accumulate_rows=accumulate_rows,
            moment_storage=as_storage(moment_storage),
            axis_name=axis_name,
        )
    )


_CHECKS = {
    "learning_rate": check_learning_rate,
    "rho": check_decay,
    "momentum": check_decay,
    "epsilon": check_non_negative,
    "centered": check_flag,
    "weight_decay": check_non_negative,
    "clipnorm": check_positive,
    "clipvalue": check_positive,
    "global_clipnorm": check_positive,
    "use_ema": check_flag,
    "ema_momentum": check_closed_decay,
    "ema_overwrite_frequency": partial(check_whole_number, least=1),
    "name": check_name,
    "loss_scale_factor": check_positive,
    "gradient_accumulation_steps": partial(check_whole_number, least=2),
    "nesterov": check_flag,
    "eps_in_sqrt": check_flag,
    "initial_scale": check_non_negative,
    "bias_correction": check_flag,
    "skip_nonfinite": check_flag,
    "axis_name": check_axis_name,
}
_MAY_BE_NONE = {
    "momentum",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "axis_name",
}


def _check_arguments(given: dict[str, Any]) -> None:
    """Refuses here, under the factory's names, what a transform would under its own."""
    check_arguments(given, _CHECKS, _MAY_BE_NONE)
    check_at_most_one({n: given[n] for n in ("clipnorm", "clipvalue", "global_clipnorm")})
    if not given["use_ema"]:
        check_needs("use_ema=True", "ema_momentum", given["ema_momentum"], 0.99)
        frequency = given["ema_overwrite_frequency"]
        check_needs("use_ema=True", "ema_overwrite_frequency", frequency, None)
    if given["gradient_accumulation_steps"] is None:
        rows = given["accumulate_rows"]
        check_needs("gradient_accumulation_steps", "accumulate_rows", rows, None)
    measures = ("clipnorm", "global_clipnorm")
    if not given["skip_nonfinite"] and all(given[name] is None for name in measures):
        needed = "clipnorm, global_clipnorm or skip_nonfinite"
        check_needs(needed, "axis_name", given["axis_name"], None)
    if not is_on(given["momentum"]):
        check_needs("momentum > 0", "nesterov", given["nesterov"], False)
    if not is_on(given["weight_decay"]):
        mask = given["weight_decay_mask"]
        check_needs("weight_decay > 0", "weight_decay_mask", mask, None)
