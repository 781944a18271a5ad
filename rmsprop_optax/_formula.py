"""Which RMSprop: every choice that the dialects make differently, as one row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from rmsprop_optax._foundation._types import AxisName, Count, LearningRate, Mask, Scalar
from rmsprop_optax.leaves import MomentStorage


@dataclass(frozen=True, kw_only=True)
class Formula:
    """An update in this library's own terms; a dialect is a row of these.

    Attributes:
      source: Whose update this is, as a person would look it up.
      name: The label of the step in traces and profiles.
      learning_rate: A number, a schedule, or a callable without arguments.
      decay: Of the mean square (and of the mean, where centered).
      eps: Keeps the denominator from 0.
      eps_in_sqrt: Whether eps is inside the root.
      initial_scale: The mean square before the first step.
      centered: Whether the mean is taken off before squares are averaged.
      bias_correction: Whether the moments are divided by 1 - decay^t.
      momentum: None and the Python number 0: none.
      nesterov: Whether the momentum looks one step ahead.
      lr_in_momentum: Whether the learning rate is inside the momentum's sum.
      cautious: Whether the momentum moves only where the gradient agrees.
      maximize: Whether the gradient is turned around first.
      coupled_decay: The weight of the L2 penalty that is added to the gradient.
      weight_decay: The weight of the decay beside the update.
      weight_decay_mask: Which parameters decay beside the update.
      decay_rate: The rate that multiplies ``weight_decay``; None: the learning rate.
      clipvalue: Largest magnitude of a value of a gradient.
      clipnorm: Largest norm of a leaf.
      global_clipnorm: Largest norm of all leaves together.
      use_ema: Whether the new weights are averaged.
      ema_momentum: The decay of that average.
      ema_overwrite_frequency: After how many iterations the weights become the average.
      loss_scale_factor: What gradients are divided by.
      gradient_accumulation_steps: Calls to an update.
      accumulate_rows: By the path of a table, the rows that these calls touch at most.
      split_complex: Whether the parts of a complex number are two real numbers.
      skip_nonfinite: Whether calls with gradients that are not finite are dropped.
      moment_storage: How moments are kept between steps; None: in full.
      axis_name: The mesh axes that norms and that verdict are taken over.
    """

    source: str
    name: str
    learning_rate: LearningRate
    decay: Scalar
    eps: Scalar
    eps_in_sqrt: bool = True
    initial_scale: Scalar = 0.0
    centered: bool = False
    bias_correction: bool = False
    momentum: Scalar | None = None
    nesterov: bool = False
    lr_in_momentum: bool = True
    cautious: bool = False
    maximize: bool = False
    coupled_decay: Scalar | None = None
    weight_decay: Scalar | None = None
    weight_decay_mask: Mask | None = None
    decay_rate: LearningRate | None = None
    clipvalue: Scalar | None = None
    clipnorm: Scalar | None = None
    global_clipnorm: Scalar | None = None
    use_ema: bool = False
    ema_momentum: Scalar = 0.99
    ema_overwrite_frequency: Count | None = None
    loss_scale_factor: Scalar | None = None
    gradient_accumulation_steps: Count | None = None
    accumulate_rows: Mapping[str, int] | None = None
    split_complex: bool = False
    skip_nonfinite: bool = False
    moment_storage: MomentStorage | None = None
    axis_name: AxisName | None = None


def is_on(value: Scalar | None) -> TypeGuard[Scalar]:
    """Neither None nor the Python number 0. An array may be 0 now and not later."""
    return value is not None and not (isinstance(value, (int, float)) and value == 0)
