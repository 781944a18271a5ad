"""Compiles a step for a TPU or a GPU that is not there, and says what it costs.

XLA's compilers for both run on any machine with Linux. Bytes, memory and kernels are
those of the program that the device would run; time needs the device.
"""

import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import _collectives, _hlo

# Before JAX is imported: no question to a metadata server, no lock, no look for a card. A
# program that is read from JAX's cache can't be loaded for a device that is not there.
ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "TPU_SKIP_MDS_QUERY": "1",
    }
)
_H200 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 4814000000000
  l2_cache_size: 62914560
  clock_rate_ghz: 1.98
  device_memory_size: 150000000000
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H200"
"""


class Device(NamedTuple):
    """A kind of device, and what compiles for it.

    Attributes:
      name: Its name in the tables.
      topology: That of JAX, where it has a name.
      packages: The compiler.
      options: Of the command that installs it.
      side: Of a square matrix that is too large for the on-chip memory, where copies
        would blur the picture.
    """

    name: str
    topology: str | None
    packages: tuple[str, ...]
    options: str
    side: int


_TPU = ("libtpu",)
_GPU = ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc", "nvidia-nvvm")
V5E = Device("v5e", "v5e:2x2", _TPU, "", 16_384)
V6E = Device("v6e", "v6e:2x2", _TPU, "", 16_384)
H200 = Device("H200", None, _GPU, "--no-deps ", 8_192)
DEVICES = {device.name: device for device in (V5E, V6E, H200)}


class Measured(NamedTuple):
    """What a compiled step costs a device.

    Attributes:
      moved: Bytes in device memory, for each combination of branches.
      kernels: Of the combination that has most.
      temporary: Bytes of memory beside the arguments.
      arguments: Bytes of the arguments, with the padding of their layout.
      sent: What it sends to other devices.
    """

    moved: tuple[float, ...]
    kernels: int
    temporary: int
    arguments: int
    sent: _collectives.Sent


def not_installed(device: Device) -> str | None:
    """A note that says how to install the compiler for a device; None: it is here."""
    installed = {found.name.lower() for found in importlib.metadata.distributions()}
    missing = [name for name in device.packages if name not in installed]
    if not missing:
        return None
    given = [
        f"{name}=={jax.__version__}" if name.startswith("jax-") else name
        for name in missing
    ]
    command = f"pip install {device.options}{' '.join(given)}"
    return f"Not compiled for {device.name}: `{command}` installs the compiler."


def mesh_of(
    device: Device,
    shape: Sequence[int] = (1,),
    names: Sequence[str] = ("data",),
    topology: str | None = None,
) -> Mesh:
    """A mesh of devices to compile for; ``topology`` such as ``"v5e:4x4"``."""
    count = math.prod(shape)
    if device.topology is None:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=_H200, topology=f"1x1x{count}"
        )
    else:
        found = topologies.get_topology_desc(topology or device.topology, platform="tpu")
    return Mesh(np.array(found.devices[:count]).reshape(shape), names)


def measure(
    step: Callable[..., Any],
    args: Sequence[Any],
    donate: Sequence[int],
    device: Device,
    formats: Callable[[Mesh], Any] | None = None,
) -> Measured:
    """What a step on one device costs; ``args`` are trees of `jax.ShapeDtypeStruct`.

    ``formats`` gives those of the first argument, which the step returns too.
    """
    mesh = mesh_of(device)
    here = NamedSharding(mesh, PartitionSpec())
    args = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tuple(args)
    )
    layouts = {}
    if formats is not None:
        held = formats(mesh)
        into = held, *[here] * (len(args) - 1)
        layouts = {"in_shardings": into, "out_shardings": held}
    program = jax.jit(step, donate_argnums=tuple(donate), **layouts)
    return read(program.trace(*args).lower().compile(), devices=1)


def read(compiled: Any, devices: int) -> Measured:
    """What a compiled program costs each of its devices."""
    text, memory = compiled.as_text(), compiled.memory_analysis()
    cases = _hlo.cost(text).cases
    new_outputs = max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0)
    return Measured(
        tuple(moved for moved, _ in cases),
        max(kernels for _, kernels in cases),
        memory.temp_size_in_bytes + new_outputs,
        memory.argument_size_in_bytes,
        _collectives.sent(text, devices),
    )
