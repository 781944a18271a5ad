"""Makes the pages of notebooks and benchmarks: `python docs/pages.py`, then build."""

import re
import shutil
from pathlib import Path

DOCS = Path(__file__).parent


def write_notebooks() -> None:
    """Markdown and pictures of `notebooks/`, as committed, in `docs/notebooks/`."""
    import nbformat
    from nbconvert import MarkdownExporter

    for notebook in sorted((DOCS.parent / "notebooks").glob("*.ipynb")):
        folder = DOCS / "notebooks" / notebook.stem
        folder.mkdir(parents=True, exist_ok=True)
        page, resources = MarkdownExporter().from_notebook_node(
            nbformat.read(notebook, as_version=4)
        )
        (folder / "index.md").write_text(_adapted(page), encoding="utf-8")
        for name, picture in resources["outputs"].items():
            (folder / name).write_bytes(picture)


def write_benchmarks() -> None:
    """Tables and pictures of `benchmarks/results/`, as committed, for the site."""
    folder = DOCS / "benchmarks"
    folder.mkdir(exist_ok=True)
    for pattern in ("*.md", "*.png"):
        for file in (DOCS.parent / "benchmarks" / "results").glob(pattern):
            shutil.copy(file, folder)


def _adapted(page: str) -> str:
    """Pictures get the heading above them as description; links lead to pages."""
    lines, heading, in_code = [], "", False
    for line in page.splitlines():
        in_code ^= line.startswith("```")
        if line.startswith("#") and not in_code:
            heading = line.lstrip("# ")
        line = re.sub(r"^!\[png\]", f"![{heading}]", line)
        lines.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](../\1/index.md)", line))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_notebooks()
    write_benchmarks()
