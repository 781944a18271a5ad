"""The README keeps its promises; its Python blocks run as doctests beside this."""

import ast
import inspect
import re
from pathlib import Path

import optax
import pytest

import rmsprop_optax

ROOT = Path(__file__).parents[1]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    readme, ci = ((ROOT / name).read_text() for name in ("README.md", ".ci/run"))
    commands = re.findall(r"```sh\n(.*)\n```", readme)
    assert len(commands) == 2
    assert "python examples/char_gru" in commands[0]
    assert commands[1] in ci.splitlines()


def _guide(name: str) -> str:
    return (ROOT / "docs" / "guides" / f"{name}.md").read_text()


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_argument_is_in_its_guide() -> None:
    table = _guide("arguments")
    for name in inspect.signature(rmsprop_optax.rmsprop).parameters:
        assert f"`{name}`" in table


def test_every_dialect_is_in_its_guide() -> None:
    page = _guide("which-rmsprop")
    table = page.split("| `dialects.` |")[1].split("\n\n")[0]
    bounds = page.split("<!-- bounds: begin -->")[1].split("<!-- bounds: end -->")[0]
    for name in rmsprop_optax.dialects.__all__:
        assert f"| `{name}` |" in table
        assert f"| `{name}` |" in bounds


def test_the_bounds_that_were_measured_are_those_that_are_tested() -> None:
    page = _guide("which-rmsprop")
    bounds = page.split("<!-- bounds: begin -->")[1].split("<!-- bounds: end -->")[0]
    rows = re.findall(r"\| ([\d.e+-]+) \| ([\d.e+-]+) \| ([\d.]+) \|", bounds)
    assert len(rows) >= 7
    for float64, _, places in rows:
        assert float(float64) < 1e-12
        assert float(places) < 2.0


PAGES = ["README.md", "CONTRIBUTING.md", "docs/index.md"]
PAGES += [f"docs/guides/{page.name}" for page in (ROOT / "docs/guides").glob("*.md")]


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_linked_exist(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("name", PAGES[2:])
def test_a_doctest_of_the_site_is_marked_as_one(name: str) -> None:
    """The site copies its code without the output, and ruff formats it."""
    assert "```python\n>>>" not in (ROOT / name).read_text()


# Beside the parameters and their groups, what a framework's line says, ours says too.
SAME_ARGUMENTS = {
    "keras.optimizers.RMSprop": "rmsprop",
    "tf.keras.optimizers.RMSprop": "dialects.tf_keras_2_11",
    "tf.keras.optimizers.legacy.RMSprop": "dialects.tf_keras",
    "tf.compat.v1.train.RMSPropOptimizer": "dialects.tf1",
    "torch.optim.RMSprop": "dialects.torch",
    "timm.optim.RMSpropTF": "dialects.timm",
    "optax.rmsprop": "dialects.optax",
}


def test_the_lines_of_the_porting_table_are_true() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.split("| you have | write |\n|---|---|\n")[1].split("\n\n")[0]
    names = {**vars(rmsprop_optax), "optax": optax, "n": 100}
    compared = set()
    for line in table.splitlines():
        theirs, ours = line.strip("| ").split(" | ")
        ours = ours.split("`")[1]
        assert callable(eval(ours, names).update)
        for code in re.findall(r"`([^`]*\))`", theirs):
            source, arguments = _call(code)
            if source in SAME_ARGUMENTS and "params" not in arguments:
                expected = (SAME_ARGUMENTS[source], arguments)
                assert _call(ours) == expected
                compared.add(source)
    assert compared == set(SAME_ARGUMENTS)


def _call(code: str) -> tuple[str, str]:
    """The function's name, and its arguments as they are written, without parameters."""
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    given = [ast.unparse(part) for part in (*call.args, *call.keywords)]
    written = ", ".join(part for part in given if part != "model.parameters()")
    return ast.unparse(call.func), written
