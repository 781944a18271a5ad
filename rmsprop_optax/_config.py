"""One configuration: each option of every dialect, declared and checked once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any, TypeGuard

import jax
import numpy as np

from rmsprop_optax._foundation._axes import check_axis_name
from rmsprop_optax._foundation._checks import (
    check_closed_decay,
    check_decay,
    check_flag,
    check_has_effect,
    check_loss_scale,
    check_mapping,
    check_name,
    check_non_negative,
    check_parameter_mask,
    check_positive,
    check_whole_number,
)
from rmsprop_optax._foundation._schedules import Rate, as_decay, as_rate
from rmsprop_optax._foundation._types import (
    AxisName,
    Count,
    LearningRate,
    Mask,
    Scalar,
    Schedule,
)
from rmsprop_optax.storage import MomentStorage, Storage
from rmsprop_optax.storage._moment_storage import as_storage

Check = Callable[[str, Any], Any]


def _option(check: Check, default: Any = MISSING) -> Any:
    """A field with its check. If the default is None, the value may be None."""
    return field(default=default, metadata={"check": check})


def _check_rows(name: str, value: Any) -> None:
    check_mapping(name, value, _at_least(1))


def _check_storage(name: str, value: Any) -> None:
    as_storage(value, name)


def _at_least(least: int) -> Check:
    return partial(check_whole_number, least=least)


@dataclass(frozen=True, kw_only=True)
class RmspropConfig:
    """An RMSprop in this library's own terms; a dialect is a row of these options.

    An option without an entry here is the argument of `rmsprop` of the same name.

    Attributes:
      source: The framework's own name of this update.
      names: Options that the caller calls something else, each with the caller's name.
      exclusive_clips: The kinds of clipping of which one can be given.
      rates: The learning rates and weight decays among the options, by their names.
      decay: The decay of the mean square, and of the mean.
      eps: Keeps the denominator from 0.
      lr_in_momentum: Whether the learning rate is inside the momentum.
      cautious: Whether to move only where the gradient agrees.
      maximize: Whether to go up the gradient.
      coupled_decay: The weight of an L2 penalty in the gradient.
      decay_rate: The rate of the decoupled decay; None: the learning rate.
      ema_from_initial: Whether the average of the weights starts at the initial ones.
      ema_per_update: Whether it moves at updates, and not at every call.
      split_complex: Whether a complex number is two real ones.
    """

    source: str
    names: tuple[tuple[str, str], ...] = ()
    exclusive_clips: tuple[str, ...] = ("clipnorm", "clipvalue", "global_clipnorm")
    rates: dict[str, Rate] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    name: str = _option(check_name)
    learning_rate: LearningRate = _option(as_rate)
    decay: Scalar = _option(check_decay)
    eps: Scalar = _option(check_non_negative)
    eps_in_sqrt: bool = _option(check_flag, True)
    initial_scale: Scalar = _option(check_non_negative, 0.0)
    centered: bool = _option(check_flag, False)
    bias_correction: bool = _option(check_flag, False)
    momentum: Scalar | None = _option(check_closed_decay, None)
    nesterov: bool = _option(check_flag, False)
    lr_in_momentum: bool = _option(check_flag, True)
    cautious: bool = _option(check_flag, False)
    maximize: bool = _option(check_flag, False)
    coupled_decay: Scalar | Schedule | None = _option(as_decay, None)
    weight_decay: Scalar | Schedule | None = _option(as_decay, None)
    weight_decay_mask: Mask | None = _option(check_parameter_mask, None)
    decay_rate: LearningRate | None = _option(as_rate, None)
    clipvalue: Scalar | None = _option(check_positive, None)
    clipnorm: Scalar | None = _option(check_positive, None)
    global_clipnorm: Scalar | None = _option(check_positive, None)
    use_ema: bool = _option(check_flag, False)
    ema_momentum: Scalar = _option(check_closed_decay, 0.99)
    ema_overwrite_frequency: Count | None = _option(_at_least(1), None)
    ema_from_initial: bool = _option(check_flag, False)
    ema_per_update: bool = _option(check_flag, False)
    loss_scale_factor: Scalar | None = _option(check_loss_scale, None)
    gradient_accumulation_steps: Count | None = _option(_at_least(2), None)
    accumulate_rows: Mapping[str, int] | None = _option(_check_rows, None)
    split_complex: bool = _option(check_flag, False)
    skip_nonfinite: bool = _option(check_flag, False)
    moment_storage: Storage = _option(_check_storage, None)
    axis_name: AxisName | None = _option(check_axis_name, None)

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            optional = option.default is None and value is None
            if "check" in option.metadata and not optional:
                checked = option.metadata["check"](self.argument(option.name), value)
                if isinstance(checked, Rate):
                    self.rates[option.name] = checked
        self._check_together()

    @property
    def storage(self) -> MomentStorage | None:
        """``moment_storage`` as a `MomentStorage`."""
        return as_storage(self.moment_storage)

    def argument(self, option: str) -> str:
        """The caller's own name of an option."""
        return dict(self.names).get(option, option)

    def _check_together(self) -> None:
        """Options that exclude each other, and options that need another one."""
        kinds = {self.argument(n): getattr(self, n) for n in self.exclusive_clips}
        given = [f"{n}={value!r}" for n, value in kinds.items() if value is not None]
        if len(given) > 1:
            names = ", ".join(f"`{name}`" for name in kinds)
            raise ValueError(
                f"At most one of {names} can be given, got {', '.join(given)}. To clip "
                "twice, chain the clipping transforms yourself, before `rmsprop`."
            )
        clips = self.clipnorm is not None or self.global_clipnorm is not None
        accumulates = self.gradient_accumulation_steps is not None
        decays = is_on(self.weight_decay) or is_on(self.coupled_decay)
        reduces = "clipnorm, global_clipnorm or skip_nonfinite"
        for option, needed, has_effect in (
            ("ema_momentum", "use_ema=True", self.use_ema),
            ("ema_overwrite_frequency", "use_ema=True", self.use_ema),
            ("ema_per_update", "use_ema=True", self.use_ema),
            ("ema_per_update", "gradient_accumulation_steps", accumulates),
            ("accumulate_rows", "gradient_accumulation_steps", accumulates),
            ("axis_name", reduces, clips or self.skip_nonfinite),
            ("weight_decay_mask", "weight_decay", decays),
            ("nesterov", "momentum", self.momentum is not None),
        ):
            if not has_effect:
                default = getattr(type(self), option)
                value = getattr(self, option)
                check_has_effect(self.argument(option), value, default, needed)


def _flatten(config: RmspropConfig) -> tuple[list[Any], None]:
    return [getattr(config, option.name) for option in fields(config)], None


def _unflatten(_: None, values: Iterable[Any]) -> RmspropConfig:
    """The configuration with other values, which may be tracers or anything: no check."""
    config = object.__new__(RmspropConfig)
    names = (option.name for option in fields(RmspropConfig))
    vars(config).update(zip(names, values, strict=True))
    return config


# Programs that take a transformation apart see the arrays in its configuration.
jax.tree_util.register_pytree_node(RmspropConfig, _flatten, _unflatten)


def is_on(value: Any) -> TypeGuard[Any]:
    """Neither None nor the number 0. An array of JAX's may be 0 now and not later."""
    known = isinstance(value, (int, float, np.number, np.ndarray))
    return value is not None and not (known and np.size(value) == 1 and value == 0)
