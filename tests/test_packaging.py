"""The wheel and the sdist are what a user gets; one version everywhere."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import rmsprop_optax

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

USE_IT = """
import importlib.resources, jax, jax.numpy as jnp, optax, rmsprop_optax
tx = rmsprop_optax.rmsprop(0.1)
grads = jax.grad(lambda p: p**2 / 2)(jnp.array(10.0))
updates, _ = jax.jit(tx.update)(grads, tx.init(grads), grads)
print(rmsprop_optax.__file__)
print(rmsprop_optax.__version__)
print((importlib.resources.files("rmsprop_optax") / "py.typed").is_file())
print(optax.apply_updates(jnp.array(10.0), updates))
"""


def test_the_version_comes_from_one_place() -> None:
    assert rmsprop_optax.__version__ == VERSION
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'"rmsprop_optax {VERSION}"' in (ROOT / "zensical.toml").read_text()


@pytest.mark.slow
def test_what_is_built_installs_and_runs_elsewhere(tmp_path: Path) -> None:
    """The sdist, the wheel made from it, and the wheel made from the checkout."""
    if importlib.util.find_spec("build") is None and not os.environ.get("CI"):
        pytest.skip("needs build: pip install '.[dev]'")
    build, elsewhere = [sys.executable, "-m", "build", "--outdir"], tmp_path / "elsewhere"
    _run([*build, tmp_path, ROOT])
    _run([*build, tmp_path / "direct", "--wheel", ROOT])
    (sdist,) = tmp_path.glob("*.tar.gz")
    (wheel,) = tmp_path.glob("*.whl")
    (direct,) = (tmp_path / "direct").glob("*.whl")
    assert wheel.name == f"rmsprop_optax-{VERSION}-py3-none-any.whl"
    assert _contents(wheel) == _contents(direct)
    _run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel])
    _check_wheel(wheel)
    _check_sdist(sdist)

    python = _fresh_environment(tmp_path / "venv")
    # The sdist, from which pip builds that wheel again.
    _run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", sdist])
    elsewhere.mkdir()
    file, version, typed, result = _run(
        [python, "-I", "-c", USE_IT], elsewhere
    ).splitlines()
    assert Path(file).is_relative_to(tmp_path / "venv")
    assert version == VERSION
    assert typed == "True"
    assert result == "9.683772"
    _check_types(python, elsewhere)


def _check_types(python: Path, folder: Path) -> None:
    """Strict checkers accept a program that uses what is installed, and it runs."""
    program = folder / "program.py"
    program.write_text((ROOT / "tests/typed_program.py").read_text())
    strict = {"typeCheckingMode": "strict", "reportMissingTypeStubs": False}  # Optax's
    (folder / "pyrightconfig.json").write_text(json.dumps(strict))
    _run([sys.executable, "-m", "pyright", "--pythonpath", python, program], folder)
    (folder / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n[mypy-optax.*]\nignore_missing_imports = True\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--python-executable", python, program]
    _run(mypy, folder)
    _run([python, "-I", program], folder)


def _fresh_environment(folder: Path) -> Path:
    """Its Python. What this package needs is seen there, behind what is installed."""
    _run([sys.executable, "-m", "venv", "--without-pip", folder])
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(_run([python, "-c", ask]).strip())
    (own / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def _run(command: list[str | Path], cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _check_wheel(wheel: Path) -> None:
    names = set(_contents(wheel))
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "rmsprop_optax").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    info = f"rmsprop_optax-{VERSION}.dist-info"
    assert {name for name in names if not name.startswith(info)} == package
    assert f"{info}/licenses/LICENSE" in names


def _check_sdist(sdist: Path) -> None:
    """Everything that is committed: what is in it can be tested and built again."""
    with tarfile.open(sdist) as archive:
        names = {re.sub("^[^/]*/", "", name) for name in archive.getnames()}
    for needed in ("LICENSE", "README.md", "CITATION.cff", "pyproject.toml", ".ci/run"):
        assert needed in names
    for folder in ("rmsprop_optax", "tests", "benchmarks", "docs", "notebooks"):
        assert any(name.startswith(f"{folder}/") for name in names)
    assert not [name for name in names if "__pycache__" in name]
