"""The chain that every RMSprop is, in the order in which a gradient flows."""

from typing import Any

import jax
import optax

from rmsprop_optax._formula import Formula, is_on
from rmsprop_optax._foundation._schedules import as_schedule
from rmsprop_optax._foundation._types import Count, LearningRate, PyTree, Schedule
from rmsprop_optax.transforms._averaging import average_params
from rmsprop_optax.transforms._centered import scale_by_stddev
from rmsprop_optax.transforms._clipping import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
)
from rmsprop_optax.transforms._coupled_decay import add_decayed_weights
from rmsprop_optax.transforms._learning_rate import scale_by_learning_rate
from rmsprop_optax.transforms._loss_scale import unscale_loss
from rmsprop_optax.transforms._missing import zeros_for_missing
from rmsprop_optax.transforms._momentum import trace
from rmsprop_optax.transforms._second_moment import scale_by_rms
from rmsprop_optax.transforms._sign import negate
from rmsprop_optax.transforms._weight_decay import decay_weights
from rmsprop_optax.wrappers._accumulation import accumulate_gradients
from rmsprop_optax.wrappers._cautious import cautious
from rmsprop_optax.wrappers._precision import in_float32
from rmsprop_optax.wrappers._skip_nonfinite import skip_nonfinite
from rmsprop_optax.wrappers._split_complex import split_complex

Transforms = list[optax.GradientTransformation]


class Rmsprop(optax.GradientTransformationExtraArgs):
    """A transformation that remembers its formula, for `describe`."""

    formula: Formula


def build(formula: Formula) -> Rmsprop:
    """The transformation that ``formula`` says. Its values were checked before."""
    step = optax.chain(*_gradient(formula), *_descent(formula), *_decay(formula))
    every_k = formula.gradient_accumulation_steps
    if every_k is not None:
        step = accumulate_gradients(step, every_k, formula.accumulate_rows)
    if formula.loss_scale_factor is not None:
        step = optax.chain(unscale_loss(formula.loss_scale_factor), step)
    if formula.split_complex:
        step = split_complex(step)
    step = optax.chain(in_float32(step), zeros_for_missing())
    if formula.use_ema:
        average = average_params(
            formula.ema_momentum,
            formula.ema_overwrite_frequency,
            1 if every_k is None else every_k,
        )
        step = optax.chain(step, average)
    if formula.skip_nonfinite:
        step = skip_nonfinite(step, axis_name=formula.axis_name)
    return _labelled(step, formula)


def _gradient(formula: Formula) -> Transforms:
    """What is done to the gradient before RMSprop sees it."""
    stages: Transforms = []
    if formula.maximize:
        stages.append(negate())
    if formula.clipvalue is not None:
        stages.append(clip_by_value(formula.clipvalue))
    if formula.clipnorm is not None:
        stages.append(clip_by_norm(formula.clipnorm, axis_name=formula.axis_name))
    if formula.global_clipnorm is not None:
        stages.append(
            clip_by_global_norm(formula.global_clipnorm, axis_name=formula.axis_name)
        )
    if is_on(formula.coupled_decay):
        stages.append(add_decayed_weights(formula.coupled_decay))
    return stages


def _descent(formula: Formula) -> Transforms:
    """The second moment, the learning rate and the momentum, in their order."""
    scale = scale_by_stddev if formula.centered else scale_by_rms
    stages: Transforms = [
        scale(
            formula.decay,
            formula.eps,
            formula.initial_scale,
            formula.eps_in_sqrt,
            formula.bias_correction,
            formula.moment_storage,
        ),
        scale_by_learning_rate(_at_micro_steps(formula.learning_rate, formula)),
    ]
    if is_on(formula.momentum):
        place = len(stages) if formula.lr_in_momentum else 1
        momentum = trace(formula.momentum, formula.nesterov, formula.moment_storage)
        stages.insert(place, momentum)
    return [cautious(optax.chain(*stages))] if formula.cautious else stages


def _decay(formula: Formula) -> Transforms:
    """Decoupled weight decay, beside the update."""
    if not is_on(formula.weight_decay):
        return []
    rate = formula.learning_rate if formula.decay_rate is None else formula.decay_rate
    rate = _at_micro_steps(rate, formula)
    return [decay_weights(formula.weight_decay, rate, formula.weight_decay_mask)]


def _at_micro_steps(learning_rate: LearningRate, formula: Formula) -> Schedule:
    """The schedule of micro-steps as one of updates, each made by the k-th micro-step."""
    rate = as_schedule(learning_rate)
    every_k: Count | None = formula.gradient_accumulation_steps
    if every_k is None:
        return rate
    return lambda count: rate(count * every_k + every_k - 1)


def _labelled(inner: optax.GradientTransformationExtraArgs, formula: Formula) -> Rmsprop:
    """``inner``, with its operations under the formula's name in traces and profiles."""

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        with jax.named_scope(formula.name):
            return inner.update(updates, state, params, **extra_args)

    tx = Rmsprop(inner.init, update_fn)
    tx.formula = formula
    return tx
