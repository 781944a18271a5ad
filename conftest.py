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


NEED_TORCH = {
    f"rmsprop_optax.interchange.torch.{name}"
    for name in ("export_params", "export_state", "import_params", "import_run")
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A doctest that makes tensors is skipped where there are none, but never in CI."""
    if importlib.util.find_spec("torch") or os.environ.get("CI"):
        return
    for item in items:
        if item.name in NEED_TORCH:
            reason = "needs torch: pip install 'rmsprop_optax[parity]'"
            item.add_marker(pytest.mark.skip(reason=reason))
