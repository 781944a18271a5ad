"""One configuration: each option of every dialect, declared, documented, checked once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any, TypeGuard

import jax
import numpy as np

from rmsprop_optax._foundation._axes import check_axis_name
from rmsprop_optax._foundation._checks import (
    check_at_most_one,
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


def _option(doc: str, check: Check, default: Any = MISSING) -> Any:
    """A field with its documentation and its check.

    If the default is None, the value may be None.
    """
    metadata = {"doc": doc, "check": check}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def _check_storage(name: str, value: Any) -> None:
    as_storage(value, name)


_check_rows = partial(check_mapping, check=partial(check_whole_number, least=1))


@dataclass(frozen=True, kw_only=True)
class RmspropConfig:
    """An RMSprop in this library's own terms; a dialect is a row of these options.

    Attributes:
      source: The framework's own name of this update.
      names: Options that the caller calls something else, each with the caller's name.
      exclusive_clips: The kinds of clipping of which one can be given.
      rates: The learning rates and weight decays among the options, by their names.
    """

    source: str
    names: tuple[tuple[str, str], ...] = ()
    exclusive_clips: tuple[str, ...] = ("clipnorm", "clipvalue", "global_clipnorm")
    rates: dict[str, Rate] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    name: str = _option("The label of the step in traces and profiles.", check_name)
    learning_rate: LearningRate = _option(
        "A number, a schedule, or a callable without arguments.", as_rate
    )
    decay: Scalar = _option("The decay of the mean square, and of the mean.", check_decay)
    eps: Scalar = _option("Keeps the denominator from 0.", check_non_negative)
    eps_in_sqrt: bool = _option("Whether eps is inside the root.", check_flag, True)
    initial_scale: Scalar = _option(
        "The mean square before the first step.", check_non_negative, 0.0
    )
    centered: bool = _option(
        "Whether to divide by the standard deviation.", check_flag, False
    )
    bias_correction: bool = _option(
        "Whether moments are divided by 1 - decay^t.", check_flag, False
    )
    momentum: Scalar | None = _option(
        "The decay of the momentum.", check_closed_decay, None
    )
    nesterov: bool = _option("Whether the momentum is Nesterov's.", check_flag, False)
    lr_in_momentum: bool = _option(
        "Whether the learning rate is inside the momentum.", check_flag, True
    )
    cautious: bool = _option(
        "Whether to move only where the gradient agrees.", check_flag, False
    )
    maximize: bool = _option("Whether to go up the gradient.", check_flag, False)
    coupled_decay: Scalar | Schedule | None = _option(
        "The weight of an L2 penalty in the gradient.", as_decay, None
    )
    weight_decay: Scalar | Schedule | None = _option(
        "The weight of the decoupled weight decay.", as_decay, None
    )
    weight_decay_mask: Mask | None = _option(
        "Which parameters decay.", check_parameter_mask, None
    )
    decay_rate: LearningRate | None = _option(
        "The rate of the decoupled decay; None: the learning rate.",
        as_rate,
        None,
    )
    clipvalue: Scalar | None = _option(
        "The largest magnitude of a value of a gradient.", check_positive, None
    )
    clipnorm: Scalar | None = _option(
        "The largest norm of the gradient of a leaf.", check_positive, None
    )
    global_clipnorm: Scalar | None = _option(
        "The largest norm of all gradients together.", check_positive, None
    )
    use_ema: bool = _option("Whether to average the weights.", check_flag, False)
    ema_momentum: Scalar = _option("The decay of that average.", check_closed_decay, 0.99)
    ema_overwrite_frequency: Count | None = _option(
        "After how many iterations the weights become the average.",
        partial(check_whole_number, least=1),
        None,
    )
    ema_from_initial: bool = _option(
        "Whether that average starts at the initial weights.", check_flag, False
    )
    loss_scale_factor: Scalar | None = _option(
        "What gradients are divided by.", check_loss_scale, None
    )
    gradient_accumulation_steps: Count | None = _option(
        "Calls to an update.", partial(check_whole_number, least=2), None
    )
    accumulate_rows: Mapping[str, int] | None = _option(
        "For each table by rows, how many rows these calls touch.", _check_rows, None
    )
    split_complex: bool = _option(
        "Whether a complex number is two real ones.", check_flag, False
    )
    skip_nonfinite: bool = _option(
        "Whether to drop calls with gradients that are not finite.", check_flag, False
    )
    moment_storage: Storage = _option(
        "How moments are stored between steps.", _check_storage, None
    )
    axis_name: AxisName | None = _option(
        "The mesh axes of norms and of the finiteness check.", check_axis_name, None
    )

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
        check_at_most_one(
            {self.argument(name): getattr(self, name) for name in self.exclusive_clips}
        )
        measures = self.clipnorm is not None or self.global_clipnorm is not None
        for option, needed, has_effect in (
            ("ema_momentum", "use_ema=True", self.use_ema),
            ("ema_overwrite_frequency", "use_ema=True", self.use_ema),
            (
                "accumulate_rows",
                "gradient_accumulation_steps",
                self.gradient_accumulation_steps is not None,
            ),
            (
                "axis_name",
                "clipnorm, global_clipnorm or skip_nonfinite",
                measures or self.skip_nonfinite,
            ),
            (
                "weight_decay_mask",
                "weight_decay",
                is_on(self.weight_decay) or is_on(self.coupled_decay),
            ),
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
