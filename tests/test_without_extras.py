"""The tests that a plain user runs need the extra `test`, and no other."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
# Those that name a framework, and the pages.
PARTS = ["README.md", "docs", "rmsprop_optax", "tests/interchange", "tests/parity"]
PARTS += ["tests/dialects", "tests/examples", "tests/test_packaging.py"]
HIDE = """
import sys
parts, hidden = sys.argv[1].split(), sys.argv[2].split()
sys.modules |= dict.fromkeys(hidden)  # to import one of them is a ModuleNotFoundError
import pytest
sys.exit(pytest.main(["-n0", "-q", "-p", "no:cacheprovider", *parts]))
"""


def _packages(names: Iterable[str]) -> set[str]:
    """Packages and all that they need, as far as they are installed."""
    found, pending = set[str](), list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            with suppress(PackageNotFoundError):
                lines = map(Requirement, requires(name) or [])
                pending += [
                    line.name.lower()
                    for line in lines
                    if line.marker is None or line.marker.evaluate({"extra": ""})
                ]
    return found


def _modules_of_other_extras() -> set[str]:
    """The modules of packages that the extra `test` does not bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        extra: {Requirement(line).name.lower() for line in lines}
        for extra, lines in project["optional-dependencies"].items()
    }
    plain = _packages(extras["test"] | extras["demo"] | extras["checkpoints"])
    others = set[str]().union(*extras.values()) - plain
    found = packages_distributions().items()
    return {module for module, names in found if {n.lower() for n in names} <= others}


@pytest.mark.slow
def test_the_default_tests_pass_without_other_extras() -> None:
    hidden = _modules_of_other_extras()
    assert {"torch", "tensorflow", "tf_keras", "timm"} <= hidden or "CI" not in os.environ
    environment = {k: v for k, v in os.environ.items() if k != "CI"}
    command = [sys.executable, "-c", HIDE, " ".join(PARTS), " ".join(hidden)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
