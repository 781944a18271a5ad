"""The one table: every public transformation, in each configuration worth a row."""

from collections.abc import Callable, Collection
from typing import Any

import optax
import pytest

import rmsprop_optax as ro

EVERYTHING = {
    "momentum": 0.9,
    "centered": True,
    "nesterov": True,
    "weight_decay": 0.1,
    "weight_decay_mask": ro.exclude_paths("bias"),
    "global_clipnorm": 1.0,
    "use_ema": True,
    "ema_overwrite_frequency": 2,
    "gradient_accumulation_steps": 2,
    "loss_scale_factor": 8.0,
    "skip_nonfinite": True,
}


# However small the leaves: those of the tests are.
INT8 = ro.MomentStorage("int8", block_size=4, min_size=0)
BFLOAT16 = ro.MomentStorage("bfloat16")


def read_rate() -> float:
    """A learning rate that is read live."""
    return 0.1


TABLE: dict[str, Callable[[], optax.GradientTransformation]] = {
    "scale_by_rms": ro.scale_by_rms,
    "scale_by_rms, corrected, eps outside": lambda: ro.scale_by_rms(
        eps_in_sqrt=False, bias_correction=True, initial_scale=1.0
    ),
    "scale_by_row_rms": ro.scale_by_row_rms,
    "scale_by_stddev": ro.scale_by_stddev,
    "scale_by_stddev, corrected": lambda: ro.scale_by_stddev(
        eps=1e-3, bias_correction=True
    ),
    "clip_by_value": lambda: ro.clip_by_value(0.5),
    "clip_by_norm": lambda: ro.clip_by_norm(0.5),
    "clip_by_global_norm": lambda: ro.clip_by_global_norm(0.5),
    "decay_weights": lambda: ro.decay_weights(0.1, 0.5),
    "decay_weights, masked": lambda: ro.decay_weights(
        0.1, optax.linear_schedule(1.0, 0.0, 9), ro.exclude_paths("bias")
    ),
    "average_params": lambda: ro.average_params(0.9, overwrite_frequency=2),
    "scale_by_learning_rate": lambda: ro.scale_by_learning_rate(0.1),
    "scale_by_learning_rate, schedule": lambda: ro.scale_by_learning_rate(
        optax.linear_schedule(1.0, 0.0, 9)
    ),
    "scale_by_learning_rate, live": lambda: ro.scale_by_learning_rate(read_rate),
    "unscale_loss": lambda: ro.unscale_loss(8.0),
    "zeros_for_missing": ro.zeros_for_missing,
    "cautious": lambda: ro.cautious(ro.rmsprop(momentum=0.9)),
    "split_complex": lambda: ro.split_complex(ro.scale_by_rms()),
    "accumulate_gradients": lambda: ro.accumulate_gradients(ro.scale_by_rms(), 2),
    "skip_nonfinite": lambda: ro.skip_nonfinite(ro.scale_by_rms()),
    "dynamic_loss_scale": lambda: ro.dynamic_loss_scale(ro.scale_by_rms()),
    "in_float32": lambda: ro.in_float32(ro.scale_by_rms()),
    "lazy, optax.adam": lambda: ro.sparse.lazy(ro.in_float32(optax.adam(0.1))),
    "low_precision, optax.adam": lambda: ro.sparse.lazy(
        ro.low_precision(ro.in_float32(optax.adam(0.1)), INT8)
    ),
    "low_precision, bfloat16": lambda: ro.low_precision(ro.scale_by_stddev(), BFLOAT16),
    "rmsprop": ro.rmsprop,
    "rmsprop, momentum": lambda: ro.rmsprop(momentum=0.9),
    "rmsprop, everything": lambda: ro.rmsprop(**EVERYTHING),
    "rmsprop, int8": lambda: ro.rmsprop(momentum=0.9, moment_storage=INT8),
    "tf_keras": lambda: ro.dialects.tf_keras(clipvalue=0.5, clipnorm=1.0, decay=0.1),
    "tf_keras_2_11": lambda: ro.dialects.tf_keras_2_11(use_ema=True),
    "tf1": lambda: ro.dialects.tf1(0.1, momentum=0.9, centered=True),
    "torch": lambda: ro.dialects.torch(momentum=0.9, weight_decay=0.1, maximize=True),
    "timm": lambda: ro.dialects.timm(
        momentum=0.9, weight_decay=0.1, decoupled_decay=True, caution=True
    ),
    "optax": lambda: ro.dialects.optax(0.1, momentum=0.9, bias_correction=True),
}
NOTHING_STORED = pytest.mark.filterwarnings("ignore:No moment is stored")
MARKS = {
    # Its programs are the longest, and its parts have rows and tests of their own.
    "rmsprop, int8": [pytest.mark.slow],
    # Complex moments are stored as they are, and a warning says so.
    "low_precision, optax.adam": [NOTHING_STORED],
    "low_precision, bfloat16": [NOTHING_STORED],
}

# Each mechanism once. Properties that compile large programs are checked on these by
# default, and on all rows by `pytest -m slow`.
CORE = {
    "scale_by_stddev, corrected",
    "clip_by_global_norm",
    "scale_by_learning_rate, live",
    "dynamic_loss_scale",
    "lazy, optax.adam",
    "low_precision, optax.adam",
    "low_precision, bfloat16",
    "rmsprop, momentum",
    "rmsprop, everything",
    "torch",
    "timm",
}
# Rows that compile as long as all of their mechanisms: by default they are in few tests.
MANY = {"rmsprop, everything"}


def rows(default: Collection[str]) -> list[Any]:
    """All rows; those that are not in ``default`` are slow."""
    return [
        pytest.param(
            name,
            id=name,
            marks=MARKS.get(name, []) + ([] if name in default else [pytest.mark.slow]),
        )
        for name in TABLE
    ]


CORE_ROWS = rows(CORE)
