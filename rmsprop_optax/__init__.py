"""RMSprop for JAX, complete: one factory, assembled from small Optax transformations.

The optimizer::

    rmsprop                    Keras's arguments; the others are in `dialects`
    describe, state_bytes      the update that runs; the memory that its state takes
    next_learning_rate         the learning rate of the next step, to log it
    finalize, with_average     the averaged parameters, out of a state and into one
    scale_loss                 the loss to differentiate under a loss scale
    has_updated                whether the last call of an accumulation was an update
    consecutive_errors         how many steps in a row were dropped
    exclude_paths              a mask of parameters by their paths

Modules::

    dialects                   RMSprop of tf.keras, TensorFlow 1, PyTorch, timm, Optax
    sparse                     embedding tables by rows, around any transformation
    parallel                   training steps over a mesh, sharded state
    checkpoints                state on disk, by Orbax
    interchange                weights and state from and to Keras, PyTorch, TensorFlow 1

Transformations, for a chain of your own::

    scale_by_rms, scale_by_stddev                       the second moment, the variance
    scale_by_row_rms                                    a second moment for each row
    clip_by_value, clip_by_norm, clip_by_global_norm
    scale_by_learning_rate, decay_weights, average_params
    unscale_loss, zeros_for_missing

Wrappers, around any transformation::

    accumulate_gradients, skip_nonfinite, dynamic_loss_scale
    low_precision, MomentStorage                        moments in 8 bits or a short float
    decode_state, encode_state                          such states to others and back
    apply_updates_stochastic                            parameters of a short float
    in_float32, cautious, split_complex

Classes whose names end in ``State`` are those of the states, and `StateBytes` is what
`state_bytes` returns. ``help(rmsprop_optax.rmsprop)`` explains the arguments.
"""

from importlib.metadata import version as _version

from rmsprop_optax import checkpoints, dialects, interchange, parallel, sparse
from rmsprop_optax._describe import describe
from rmsprop_optax._next_rate import next_learning_rate
from rmsprop_optax._rmsprop import rmsprop
from rmsprop_optax._state_bytes import StateBytes, state_bytes
from rmsprop_optax.storage import (
    LowPrecisionState,
    MomentStorage,
    apply_updates_stochastic,
    decode_state,
    encode_state,
    low_precision,
)
from rmsprop_optax.transforms._averaging import (
    AverageParamsState,
    average_params,
    finalize,
    with_average,
)
from rmsprop_optax.transforms._clipping import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
)
from rmsprop_optax.transforms._learning_rate import (
    ScaleByLearningRateState,
    scale_by_learning_rate,
)
from rmsprop_optax.transforms._loss_scale import UnscaleLossState, unscale_loss
from rmsprop_optax.transforms._missing import zeros_for_missing
from rmsprop_optax.transforms._scale_by_rms import (
    ScaleByRmsWithCountState,
    scale_by_rms,
)
from rmsprop_optax.transforms._scale_by_row_rms import (
    ScaleByRowRmsState,
    scale_by_row_rms,
)
from rmsprop_optax.transforms._scale_by_stddev import (
    ScaleByStddevState,
    ScaleByStddevWithCountState,
    scale_by_stddev,
)
from rmsprop_optax.transforms._weight_decay import (
    DecayWeightsState,
    decay_weights,
    exclude_paths,
)
from rmsprop_optax.wrappers._accumulation import (
    AccumulateGradientsState,
    accumulate_gradients,
    has_updated,
)
from rmsprop_optax.wrappers._cautious import cautious
from rmsprop_optax.wrappers._loss_scale import (
    DynamicLossScaleState,
    consecutive_errors,
    dynamic_loss_scale,
    scale_loss,
)
from rmsprop_optax.wrappers._precision import in_float32
from rmsprop_optax.wrappers._skip_nonfinite import SkipNonfiniteState, skip_nonfinite
from rmsprop_optax.wrappers._split_complex import split_complex

__version__ = _version("rmsprop_optax")

__all__ = [
    "AccumulateGradientsState",
    "AverageParamsState",
    "DecayWeightsState",
    "DynamicLossScaleState",
    "LowPrecisionState",
    "MomentStorage",
    "ScaleByLearningRateState",
    "ScaleByRmsWithCountState",
    "ScaleByRowRmsState",
    "ScaleByStddevState",
    "ScaleByStddevWithCountState",
    "SkipNonfiniteState",
    "StateBytes",
    "UnscaleLossState",
    "accumulate_gradients",
    "apply_updates_stochastic",
    "average_params",
    "cautious",
    "checkpoints",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "consecutive_errors",
    "decay_weights",
    "decode_state",
    "describe",
    "dialects",
    "dynamic_loss_scale",
    "encode_state",
    "exclude_paths",
    "finalize",
    "has_updated",
    "in_float32",
    "interchange",
    "low_precision",
    "next_learning_rate",
    "parallel",
    "rmsprop",
    "scale_by_learning_rate",
    "scale_by_rms",
    "scale_by_row_rms",
    "scale_by_stddev",
    "scale_loss",
    "skip_nonfinite",
    "sparse",
    "split_complex",
    "state_bytes",
    "unscale_loss",
    "with_average",
    "zeros_for_missing",
]


def __dir__() -> list[str]:
    # Without the states: `help()` would print the methods of a tuple for each.
    return sorted(x for x in [*__all__, "__version__"] if not x.endswith("State"))
