"""Runs of `torch.optim.RMSprop` (and of timm's RMSpropTF), in and out."""

from rmsprop_optax.interchange.torch._run import import_run
from rmsprop_optax.interchange.torch._state import export_state, import_state
from rmsprop_optax.interchange.torch._weights import (
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
]
