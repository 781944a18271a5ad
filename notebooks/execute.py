"""Runs notebooks in place, and puts the picture of each beside its claim.

    python notebooks/execute.py nnx_tables quickstart

The first cell shows the picture of the cell with the tag "opening", as an attachment. The
cell with the tag "setup" (imports, style) is collapsed.
"""

import sys
from pathlib import Path
from typing import Any

import nbformat

FOLDER = Path(__file__).parent


def main(names: list[str]) -> None:
    """Runs these notebooks, one after the other."""
    from nbclient import NotebookClient

    for name in names:
        file = FOLDER / f"{name}.ipynb"
        notebook: Any = nbformat.read(file, as_version=4)
        folder = {"metadata": {"path": str(FOLDER)}}
        NotebookClient(notebook, timeout=1200, resources=folder).execute()
        open_with_picture(notebook)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times
        nbformat.write(notebook, file)


def open_with_picture(notebook: Any) -> None:
    """The attachment of the first cell."""
    notebook.cells[0].attachments = {"opening.png": {"image/png": opening(notebook)}}


def opening(notebook: Any) -> str:
    """The picture that the cell with the tag "opening" drew."""
    (cell,) = (x for x in notebook.cells if "opening" in x.metadata.get("tags", []))
    shown = [output.get("data", {}) for output in cell.outputs]
    (picture,) = (data["image/png"] for data in shown if "image/png" in data)
    return picture


if __name__ == "__main__":
    main(sys.argv[1:])
