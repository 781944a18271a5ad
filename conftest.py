"""Set-up of every test and doctest: 8 CPU devices, compiled programs, Keras on JAX."""

import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# Half of the time of the tests is compilation: tests, workers and runs share programs.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Loads Optax's own tests; `tests/parity/test_optax.py` runs it in a process of its own.
collect_ignore = [] if "OPTAX_TEST" in os.environ else ["tests/parity/_optax_own.py"]


TORCH = ("import_run", "export_state", "export_params", "import_params")
NEEDED = {f"rmsprop_optax.interchange.torch.{name}": "torch" for name in TORCH}
NEEDED["rmsprop_optax.interchange.tf1.import_run"] = "tensorflow"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A doctest of a framework is skipped where that is missing, but never in CI."""
    for item in items:
        module = NEEDED.get(item.name)
        if module and not (importlib.util.find_spec(module) or os.environ.get("CI")):
            reason = f"needs {module}: pip install 'rmsprop_optax[parity]'"
            item.add_marker(pytest.mark.skip(reason=reason))
