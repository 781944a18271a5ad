"""The chain that every RMSprop is, in the order in which a gradient flows."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax._configurations import record
from rmsprop_optax._foundation._origin import origin_of, set_origin
from rmsprop_optax._foundation._schedules import Rate, last_call
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.sparse import RowSums, lazy
from rmsprop_optax.storage import low_precision
from rmsprop_optax.transforms._averaging import average_params
from rmsprop_optax.transforms._clipping import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
)
from rmsprop_optax.transforms._learning_rate import scale_by_learning_rate
from rmsprop_optax.transforms._loss_scale import unscale_loss
from rmsprop_optax.transforms._missing import zeros_for_missing
from rmsprop_optax.transforms._scale_by_rms import scale_by_rms
from rmsprop_optax.transforms._scale_by_stddev import scale_by_stddev
from rmsprop_optax.transforms._weight_decay import decay_weights, masked_by_params
from rmsprop_optax.wrappers._accumulation import accumulate_gradients
from rmsprop_optax.wrappers._cautious import cautious
from rmsprop_optax.wrappers._precision import in_float32, keep_update_dtypes
from rmsprop_optax.wrappers._skip_nonfinite import skip_nonfinite
from rmsprop_optax.wrappers._split_complex import split_complex

Stages = Iterator[optax.GradientTransformation]


class Rmsprop(optax.GradientTransformationExtraArgs):
    """A transformation that knows its configuration, for `describe`."""

    @property
    def config(self) -> RmspropConfig:
        """What it was made of."""
        return origin_of(self.update)

    def __repr__(self) -> str:
        return f"<Rmsprop: {getattr(self.config, 'source', 'another update')}>"


def build(config: RmspropConfig) -> Rmsprop:
    """The transformation of a configuration."""
    step = in_float32(optax.chain(*_gradient(config), *_descent(config)))
    if config.storage is not None:
        step = low_precision(step, config.storage)
    step = lazy(step)
    every_k = config.gradient_accumulation_steps
    if every_k is not None:
        rows = config.accumulate_rows
        step = accumulate_gradients(step, every_k, RowSums(rows) if rows else None)
    if config.loss_scale_factor is not None:
        step = keep_update_dtypes(
            optax.chain(unscale_loss(config.loss_scale_factor), step)
        )
    step = optax.chain(step, zeros_for_missing(), *_average(config))
    if config.skip_nonfinite:
        step = skip_nonfinite(step, axis_name=config.axis_name)
    return _labelled(step, config)


def _gradient(config: RmspropConfig) -> Stages:
    """What happens to the gradient before RMSprop sees it."""
    axis_name = config.axis_name
    if config.maximize:
        yield optax.stateless_with_tree_map(lambda g, _: jnp.negative(g))
    if config.clipvalue is not None:
        yield clip_by_value(config.clipvalue)
    if config.clipnorm is not None:
        yield clip_by_norm(config.clipnorm, axis_name=axis_name)
    if config.global_clipnorm is not None:
        yield clip_by_global_norm(config.global_clipnorm, axis_name=axis_name)
    if is_on(config.coupled_decay):
        penalty = optax.add_decayed_weights(config.coupled_decay)
        yield masked_by_params(penalty, "weight_decay_mask", config.weight_decay_mask)


def _descent(config: RmspropConfig) -> Stages:
    """Second moment, learning rate and momentum in their order; decoupled decay."""
    scale = scale_by_stddev if config.centered else scale_by_rms
    second_moment = scale(
        config.decay,
        config.eps,
        config.initial_scale,
        config.eps_in_sqrt,
        config.bias_correction,
    )
    rate = scale_by_learning_rate(rate_at_updates(config, "learning_rate"))
    stages = [second_moment, rate]
    if is_on(config.momentum):
        momentum = optax.trace(config.momentum, config.nesterov)
        stages.insert(2 if config.lr_in_momentum else 1, momentum)
    if config.cautious:
        stages = [cautious(optax.chain(*stages))]
    if config.split_complex:
        stages = [split_complex(optax.chain(*stages))]
    yield from stages
    if is_on(config.weight_decay):
        rate = "learning_rate" if config.decay_rate is None else "decay_rate"
        decay = decay_weights(
            rate_at_updates(config, "weight_decay"), rate_at_updates(config, rate)
        )
        yield masked_by_params(decay, "weight_decay_mask", config.weight_decay_mask)


def _average(config: RmspropConfig) -> Stages:
    """The average of the weights."""
    if config.use_ema:
        every_k = config.gradient_accumulation_steps
        yield lazy(
            average_params(
                config.ema_momentum,
                config.ema_overwrite_frequency,
                1 if every_k is None else every_k,
                config.ema_from_initial,
                config.ema_per_update,
            )
        )


def rate_at_updates(config: RmspropConfig, option: str) -> Rate:
    """A rate by updates, each of which is the k-th call; a schedule sees calls."""
    rate, every_k = config.rates[option], config.gradient_accumulation_steps
    if every_k is None or not rate.counts:
        return rate
    return rate._replace(at=lambda count: rate(last_call(count, every_k)))


def _labelled(
    inner: optax.GradientTransformationExtraArgs, config: RmspropConfig
) -> Rmsprop:
    """``inner``, with its operations under the step's name in traces and profiles."""
    inner_init, inner_update = inner
    name = config.name

    def init_fn(params: PyTree) -> PyTree:
        state = inner_init(params)
        record(config, params)
        return state

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        with jax.named_scope(name):
            return inner_update(updates, state, params, **extra_args)

    return set_origin(check_states(Rmsprop(init_fn, update_fn)), config)
