"""Optax's own test files, as its wheel ships them, with `dialects.optax` as rmsprop.

Run by `test_optax.py` in a process of its own, with ``OPTAX_TEST`` naming the file: it
replaces `optax.rmsprop` before the file is loaded, and keeps the cases of rmsprop.
"""

import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType

import jax
import optax
import pytest
from optax._src import alias, base

from rmsprop_optax import dialects

FILE = Path(optax.__file__).parent / f"{os.environ['OPTAX_TEST']}_test.py"


def _replace_rmsprop() -> None:
    # Optax picks the schedule cases by this very annotation.
    signature = inspect.signature(dialects.optax)
    rate = signature.parameters["learning_rate"]
    rate = rate.replace(annotation=base.ScalarOrSchedule)
    others = [p for p in signature.parameters.values() if p.name != "learning_rate"]
    signature = signature.replace(parameters=[rate, *others])
    dialects.optax.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    alias.rmsprop = optax.rmsprop = dialects.optax


def _stand_in_for_sklearn() -> None:
    """Imported for L-BFGS's cases, which don't run here."""
    package = ModuleType("sklearn")
    for name in ("datasets", "linear_model"):
        setattr(package, name, ModuleType(f"sklearn.{name}"))
        sys.modules[f"sklearn.{name}"] = getattr(package, name)
    sys.modules["sklearn"] = package


def _cases() -> type:
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[FILE.stem] = module
    spec.loader.exec_module(module)
    (case,) = (
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and cls.__module__ == FILE.stem
        and any("rmsprop" in _text(cls, name) for name in dir(cls))
    )
    for name in [name for name in vars(case) if name.startswith("test")]:
        if "rmsprop" not in _text(case, name):
            delattr(case, name)
    return case


def _text(case: type, name: str) -> str:
    return f"{name} {getattr(case, '_test_params_reprs', {}).get(name, '')}"


_replace_rmsprop()
_stand_in_for_sklearn()
OptaxOwn = _cases()


@pytest.fixture(autouse=True)
def _x64_as_before() -> object:
    """Optax's float64 tests may leave 64 bits on."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


def test_ours_is_in_use() -> None:
    assert alias.rmsprop is optax.rmsprop is dialects.optax
