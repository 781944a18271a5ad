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


TORCH = ("import_run", "export_state", "export_params", "import_params", "transformation")
NEEDED = {f"rmsprop_optax.interchange.torch.{name}": "torch" for name in TORCH}
NEEDED["rmsprop_optax.interchange.keras.transformation"] = "keras"
NEEDED["rmsprop_optax.interchange.tf1.import_run"] = "tensorflow"


# Parts of the paths of tests that load a framework, which takes seconds in each process.
FRAMEWORKS = {
    "torch": ("torch", "timm"),
    "tensorflow": ("tf1", "tf_keras", "tf.", "tensorflow"),
    "keras": ("keras",),
}


def _group(item: pytest.Item) -> str:
    """Tests of one group run in one process: those of a framework, or of a file.

    A slow test is a group of its own, because some take minutes.
    """
    where = item.nodeid.partition("tests/")[2]
    if where.startswith(("parity/", "interchange/")):
        for framework, parts in FRAMEWORKS.items():
            if any(part in where for part in parts):
                return framework
    slow = item.get_closest_marker("slow")
    return item.nodeid if slow else str(item.path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for the processes; a skip for a doctest of a framework that is missing."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
        module = NEEDED.get(item.name)  # in CI its absence is an error
        if module and not (importlib.util.find_spec(module) or os.environ.get("CI")):
            reason = f"needs {module}: pip install 'rmsprop_optax[parity]'"
            item.add_marker(pytest.mark.skip(reason=reason))
