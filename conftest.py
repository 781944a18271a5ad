"""Set-up of every test and doctest: 8 CPU devices, compiled programs, Keras on JAX."""

import ast
import importlib.util
import os
from collections.abc import Iterator
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


# Modules that a plain user may not have, and the extra `parity` brings.
PEERS = {"tensorflow", "tf_keras", "timm", "torch"}
NEEDED = {"rmsprop_optax.interchange.tf1.import_run": {"tensorflow"}}


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


def _missing(item: pytest.Item) -> list[str]:
    """The peers that a doctest, or a page of them, needs and that are not installed."""
    examples = getattr(getattr(item, "dtest", None), "examples", [])
    source = "\n".join(example.source for example in examples)
    needed = PEERS & {*_imported(source)} | NEEDED.get(item.name, set())
    return sorted(name for name in needed if importlib.util.find_spec(name) is None)


def _imported(source: str) -> Iterator[str]:
    """The top-level modules that a program imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for the processes; a skip for doctests of a framework that is missing."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
        missing = [] if os.environ.get("CI") else _missing(item)  # in CI it is an error
        if missing:
            reason = f"needs {', '.join(missing)}: pip install 'rmsprop_optax[parity]'"
            item.add_marker(pytest.mark.skip(reason=reason))
