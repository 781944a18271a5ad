"""Training on many devices: steps over a mesh axis, and the sharding of the state.

`data_parallel` makes a training step of a loss and a transformation: parameters and state
are whole on every device, and each has a part of the batch. `sharded_data_parallel`
shards the state too (ZeRO-1); `state_sharding` says how, for steps of your own
under `jax.jit`. `row_formats` keeps the rows of tables in one piece on a TPU. Meshes,
collectives and processes are JAX's.
"""

from rmsprop_optax.parallel._placing import bytes_per_device
from rmsprop_optax.parallel._row_formats import row_formats
from rmsprop_optax.parallel._state_sharding import state_sharding
from rmsprop_optax.parallel._steps import data_parallel, sharded_data_parallel

__all__ = [
    "bytes_per_device",
    "data_parallel",
    "row_formats",
    "sharded_data_parallel",
    "state_sharding",
]
