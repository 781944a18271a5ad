"""Peers that a plain user may not have: skipped for him, with the reason, never in CI."""

import importlib
import os
import warnings
from types import ModuleType

import pytest


def peer(module: str, package: str) -> ModuleType:
    """The module, or a skip that says what to install; in CI its absence is an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of themselves is theirs
            return importlib.import_module(module)
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs {package}: pip install 'rmsprop_optax[parity]'")
