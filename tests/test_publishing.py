"""What GitHub runs exists, and one script fills in the address of the repository."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
YAML = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
YAML += [ROOT / "CITATION.cff"]
FILLED = ("README.md", "pyproject.toml", "zensical.toml", "CITATION.cff", "SECURITY.md")
FILLED += ("CODE_OF_CONDUCT.md", "CHANGELOG.md")


@pytest.mark.parametrize("file", YAML, ids=lambda file: file.name)
def test_it_is_yaml(file: Path) -> None:
    assert isinstance(_read(file), dict)


@pytest.mark.parametrize("name", ["ci", "docs", "release"])
def test_what_a_workflow_runs_exists(name: str) -> None:
    """Scripts and tests of the repository, and tools that the extra `dev` installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tools = {re.split("[><=]", x)[0] for x in project["optional-dependencies"]["dev"]}
    tools |= {"python", "zensical", "pip", "pytest"}
    commands = _commands(_read(ROOT / ".github/workflows" / f"{name}.yml"))
    assert commands
    for command in commands:
        first, *words = command.split()
        if first == "python" and words[0] == "-m":
            assert words[1] in tools, command
        elif not first.startswith("."):
            assert first in tools, command
        for word in (first, *words):
            path = word.partition("=")[2] if word.startswith("--ignore=") else word
            if re.match(r"(\.ci|tests|docs)/", path):
                assert (ROOT / path).exists(), command


def test_ci_runs_the_parts_side_by_side() -> None:
    """All tests on the newest Python, and the default ones on each that is supported."""
    (parts,) = (
        job["strategy"]["matrix"]["include"]
        for job in _read(ROOT / ".github/workflows/ci.yml")["jobs"].values()
        if "strategy" in job
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    tested = [part["python"] for part in parts if part["run"] == "python -m pytest"]
    assert tested == supported
    assert any("-m slow" in part["run"] for part in parts)


def test_the_address_is_filled_in_everywhere_once(tmp_path: Path) -> None:
    for name in (*FILLED, ".ci/publish"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    before = {file: file.read_text() for file in tmp_path.rglob("*.md")}
    assert _publish(tmp_path, "not a name", "us@example.org").returncode
    assert {file: file.read_text() for file in before} == before

    done = _publish(tmp_path, "some-owner/some.name", "us@example.org")
    assert done.returncode == 0, done.stderr
    for name in FILLED[:5]:
        assert "github.com/some-owner/some.name" in (tmp_path / name).read_text(), name
    pages = [file.read_text() for file in before]
    assert not [x for x in pages if "https://..." in x or "[CONTACT]" in x]
    assert "us@example.org" in (tmp_path / "CODE_OF_CONDUCT.md").read_text()
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    site = "https://some-owner.github.io/some.name/"
    assert project["urls"]["Documentation"] == site
    config = tomllib.loads((tmp_path / "zensical.toml").read_text())["project"]
    assert config["site_url"] == site
    assert config["nav"][0] == {"Source code": "https://github.com/some-owner/some.name"}
    assert _read(tmp_path / "CITATION.cff")["url"] == site

    assert "already" in _publish(tmp_path, "another/name", "us@example.org").stderr
    assert "The tag is v9" in _publish(tmp_path, "--check", "v9").stderr


def _publish(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, folder / ".ci/publish", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def _commands(workflow: dict[str, Any]) -> list[str]:
    found = []
    for job in workflow["jobs"].values():
        include = job.get("strategy", {}).get("matrix", {}).get("include", [])
        for step in [*include, *job["steps"]]:
            found += step.get("run", "").splitlines()
    return [command for command in found if not command.startswith("${{")]


def _read(file: Path) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install '.[docs]'")
    return yaml.safe_load(file.read_text())
