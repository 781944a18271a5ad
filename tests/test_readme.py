"""The README keeps its promises; its Python blocks run as doctests beside this."""

import inspect
import re
from pathlib import Path

import pytest

import rmsprop_optax

ROOT = Path(__file__).parents[1]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    readme, ci = ((ROOT / name).read_text() for name in ("README.md", ".ci/run"))
    commands = re.findall(r"```sh\n(.*)\n```", readme)
    assert len(commands) == 2
    assert "python -m rmsprop_optax" in commands[0]
    assert commands[1] in ci.splitlines()


def test_every_argument_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.split("## The arguments")[1].split("## Which RMSprop?")[0]
    for name in inspect.signature(rmsprop_optax.rmsprop).parameters:
        assert f"`{name}`" in table


def test_every_dialect_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.split("| `dialects.` |")[1].split("\n\n")[0]
    bounds = readme.split("<!-- bounds: begin -->")[1].split("<!-- bounds: end -->")[0]
    for name in rmsprop_optax.dialects.__all__:
        assert f"| `{name}` |" in table
        assert f"| `{name}` |" in bounds


def test_the_bounds_that_were_measured_are_those_that_are_tested() -> None:
    readme = (ROOT / "README.md").read_text()
    bounds = readme.split("<!-- bounds: begin -->")[1].split("<!-- bounds: end -->")[0]
    rows = re.findall(r"\| ([\d.e+-]+) \| ([\d.e+-]+) \| ([\d.]+) \|", bounds)
    assert len(rows) >= 7
    for float64, _, places in rows:
        assert float(float64) < 1e-12
        assert float(places) < 2.0


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_that_are_linked_exist(name: str) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / name).read_text())
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_version_comes_from_one_place() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{rmsprop_optax.__version__}]" in changelog
