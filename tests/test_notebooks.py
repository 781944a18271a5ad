"""The notebooks are committed as they ran, and they run again from a fresh kernel."""

import importlib
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SECONDS_A_CELL = 600
# What conftest.py sets for tests; a reader's kernel has neither.
ONLY_FOR_TESTS = ("JAX_NUM_CPU_DEVICES", "MPLBACKEND")
# What the extra `notebooks` does not install: not every notebook needs it.
FRAMEWORKS = {
    "actor_critic.ipynb": ["gymnax"],
    "centered.ipynb": ["torch"],
    "nnx_tables.ipynb": ["flax"],
    "which_rmsprop.ipynb": ["torch"],
}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


@every_notebook
def test_a_committed_notebook_has_the_outputs_of_each_cell(path: Path) -> None:
    assert _problems(json.loads(path.read_text(encoding="utf-8"))) == []


@every_notebook
def test_a_notebook_opens_with_its_claim_and_its_picture(path: Path) -> None:
    """`notebooks/execute.py` puts it there; imports and style are collapsed."""
    first, setup, *others = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join(first["source"])
    assert text.startswith("# ")
    assert text.index("](attachment:opening.png)") < 1200
    assert setup["metadata"]["tags"] == ["setup"]
    (drawn,) = (cell for cell in others if cell["metadata"].get("tags") == ["opening"])
    shown = [output.get("data", {}).get("image/png") for output in drawn["outputs"]]
    assert first["attachments"]["opening.png"]["image/png"] in shown


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of Jupyter itself, outside of the kernel
@every_notebook
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    nbformat, nbclient = _jupyter("nbformat", "nbclient")
    _require(*FRAMEWORKS.get(path.name, []), extras="notebooks,parity")
    shutil.copytree(path.parents[1] / "examples", tmp_path / "examples")
    (tmp_path / "notebooks").mkdir()
    copy = shutil.copy(path, tmp_path / "notebooks")
    notebook = nbformat.read(copy, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path / "notebooks")}},
    )
    kept = {name: x for name, x in os.environ.items() if name not in ONLY_FOR_TESTS}
    client.execute(env=kept)
    assert _problems(notebook) == []


def _problems(notebook: dict[str, Any]) -> list[str]:
    """What a notebook that ran well and shows it does not have."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = [] if cells else ["no code"]
    for number, cell in enumerate(cells, start=1):
        if not cell["outputs"]:
            found.append(f"code cell {number} has no output")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                found.append(f"code cell {number}: {output['ename']}")
            if output.get("name") == "stderr":
                found.append(f"code cell {number} warns: {''.join(output['text'])}")
    return found


def _jupyter(*names: str) -> list[Any]:
    """Its modules."""
    _require(*names, "ipykernel", extras="notebooks")
    return [importlib.import_module(name) for name in names]


def _require(*names: str, extras: str) -> None:
    """Without these modules the test is skipped, but never in CI."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            reason = f"needs {name}: pip install '.[{extras}]'"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
