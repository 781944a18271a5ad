"""Training on many devices: steps over a mesh axis, and where the state lies.

`data_parallel` makes a training step of a loss and a transformation: parameters and
state whole on every device, a part of the batch on each. `sharded_data_parallel` keeps a
part of the state on each as well (ZeRO-1); `state_sharding` says which, for steps of your
own under `jax.jit`. The meshes, the collectives and the processes are JAX's.
"""

from rmsprop_optax.parallel._data_parallel import data_parallel
from rmsprop_optax.parallel._placing import bytes_per_device
from rmsprop_optax.parallel._pmap import pmap_data_parallel
from rmsprop_optax.parallel._sharded import sharded_data_parallel
from rmsprop_optax.parallel._state_sharding import state_sharding

__all__ = [
    "bytes_per_device",
    "data_parallel",
    "pmap_data_parallel",
    "sharded_data_parallel",
    "state_sharding",
]
