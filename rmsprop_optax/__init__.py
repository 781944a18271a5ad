"""RMSprop for JAX, complete: one factory, assembled from small Optax transformations.

Start with [`rmsprop`][rmsprop_optax.rmsprop]; everything that it is made of is here too,
for chains of your own.
"""

from importlib.metadata import version as _version

from rmsprop_optax import checkpoints, dialects, interchange, parallel, sparse
from rmsprop_optax._apply_updates import apply_updates_stochastic
from rmsprop_optax._describe import describe
from rmsprop_optax._rmsprop import rmsprop
from rmsprop_optax._state_bytes import StateBytes, state_bytes
from rmsprop_optax.leaves import MomentStorage
from rmsprop_optax.transforms._averaging import (
    AverageParamsState,
    average_params,
    finalize,
)
from rmsprop_optax.transforms._centered import ScaleByStddevState, scale_by_stddev
from rmsprop_optax.transforms._clipping import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
)
from rmsprop_optax.transforms._coupled_decay import add_decayed_weights
from rmsprop_optax.transforms._learning_rate import (
    ScaleByLearningRateState,
    scale_by_learning_rate,
)
from rmsprop_optax.transforms._loss_scale import (
    UnscaleLossState,
    scale_loss,
    unscale_loss,
)
from rmsprop_optax.transforms._missing import zeros_for_missing
from rmsprop_optax.transforms._momentum import trace
from rmsprop_optax.transforms._second_moment import ScaleByRmsState, scale_by_rms
from rmsprop_optax.transforms._sign import negate
from rmsprop_optax.transforms._weight_decay import (
    DecayWeightsState,
    decay_weights,
    exclude_paths,
)
from rmsprop_optax.wrappers._accumulation import (
    AccumulateGradientsState,
    accumulate_gradients,
)
from rmsprop_optax.wrappers._cautious import cautious
from rmsprop_optax.wrappers._dynamic_loss_scale import (
    DynamicLossScaleState,
    dynamic_loss_scale,
)
from rmsprop_optax.wrappers._precision import in_float32
from rmsprop_optax.wrappers._single_pass import single_pass
from rmsprop_optax.wrappers._skip_nonfinite import SkipNonfiniteState, skip_nonfinite
from rmsprop_optax.wrappers._split_complex import RealPair, split_complex

__version__ = _version("rmsprop_optax")

__all__ = [
    "AccumulateGradientsState",
    "AverageParamsState",
    "DecayWeightsState",
    "DynamicLossScaleState",
    "MomentStorage",
    "RealPair",
    "ScaleByLearningRateState",
    "ScaleByRmsState",
    "ScaleByStddevState",
    "SkipNonfiniteState",
    "StateBytes",
    "UnscaleLossState",
    "accumulate_gradients",
    "add_decayed_weights",
    "apply_updates_stochastic",
    "average_params",
    "cautious",
    "checkpoints",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "decay_weights",
    "describe",
    "dialects",
    "dynamic_loss_scale",
    "exclude_paths",
    "finalize",
    "in_float32",
    "interchange",
    "negate",
    "parallel",
    "rmsprop",
    "scale_by_learning_rate",
    "scale_by_rms",
    "scale_by_stddev",
    "scale_loss",
    "single_pass",
    "skip_nonfinite",
    "sparse",
    "split_complex",
    "state_bytes",
    "trace",
    "unscale_loss",
    "zeros_for_missing",
]
