"""Runs of `tf.compat.v1.train.RMSPropOptimizer`, in and out.

tf.keras 2 (`tf.keras.optimizers.legacy.RMSprop`) has slots of the same names and
meanings; its `momentum` is there only with momentum.
"""

from rmsprop_optax.interchange.tf1._run import import_run
from rmsprop_optax.interchange.tf1._state import export_state, import_state
from rmsprop_optax.interchange.tf1._weights import import_params

__all__ = ["export_state", "import_params", "import_run", "import_state"]
