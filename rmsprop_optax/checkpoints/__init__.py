"""Parameters and optimizer state on disk, with Orbax: whole, or not at all.

Needs `pip install 'rmsprop_optax[checkpoints]'`.
"""

from rmsprop_optax.checkpoints._checkpoints import CheckpointError, Checkpoints

__all__ = ["CheckpointError", "Checkpoints"]
