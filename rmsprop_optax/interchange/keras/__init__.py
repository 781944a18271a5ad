"""Runs of `keras.optimizers.RMSprop`, from memory and from Keras's files, and back."""

from rmsprop_optax.interchange.keras._run import import_run
from rmsprop_optax.interchange.keras._state import export_state, import_state, save_state
from rmsprop_optax.interchange.keras._weights import (
    LAYOUTS,
    export_params,
    import_params,
)

__all__ = [
    "LAYOUTS",
    "export_params",
    "export_state",
    "import_params",
    "import_run",
    "import_state",
    "save_state",
]
