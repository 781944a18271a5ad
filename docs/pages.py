"""Assembles the pages of the site in build/pages: `python docs/pages.py`, then build.

A file of the repository links to others by their paths there. What has a page gets the
address of that page; a link to a file that has none is an error.
"""

import ast
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"
LINK = re.compile(r"\]\((?!https?:|#|data:)([^)#\s]+)")
# Where a page of the site shows a table that stands in another file.
TABLE = re.compile(r"<!-- table of (\S+): (\|.*\|) -->")
SETUP = ('<details markdown="1"><summary>Imports and style</summary>', "</details>")
FENCE = re.compile(r" *```")
# Without the column that lists the sections of a page: where there are none, and beside
# tables that need the space.
WIDE = "---\nhide: [toc]\n---\n\n"
WIDE_TABLE = re.compile(r"^\|([^|\n]*\|){6,}$", re.MULTILINE)


def main() -> None:
    """Writes all pages, from nothing."""
    shutil.rmtree(PAGES, ignore_errors=True)
    sources = dict(_places())
    places = sources | {
        ROOT / "README.md": Path("index.md")
    }  # the home page has its start
    for source, page in sources.items():
        target = PAGES / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".ipynb":
            text = _notebook(source, target.parent)
        elif page.suffix != ".md":
            shutil.copy(source, target)
            continue
        elif source.suffix == ".md":
            text = source.read_text(encoding="utf-8")
        else:
            text = _example(source)
        text = _linked(TABLE.sub(_table, text), source, page, places)
        target.write_text(text, encoding="utf-8")


def _places() -> Iterator[tuple[Path, Path]]:
    """Each file or folder that has a page or is on one, and where."""
    for pattern in ("*.md", "*.png", "*.svg", "*.css"):
        for folder in (ROOT / "docs", ROOT / "benchmarks" / "results"):
            home = Path() if folder.name == "docs" else Path("benchmarks")
            for source in sorted(folder.rglob(pattern)):
                if "quick" not in source.relative_to(folder).parts:
                    yield source, home / source.relative_to(folder)
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield source, Path("notebooks", source.stem, "index.md")
    for source in sorted((ROOT / "examples").iterdir()):
        if source.suffix == ".py" or (source / "__main__.py").exists():
            yield source, Path("examples", f"{source.stem}.md")
    yield ROOT / "CHANGELOG.md", Path("changelog.md")


def _notebook(source: Path, folder: Path) -> str:
    """A notebook as committed; its pictures go into the folder.

    A cell with the tag "setup" is collapsed. A picture is described by the heading above.
    """
    import nbformat
    from nbconvert import MarkdownExporter

    notebook: Any = nbformat.read(source, as_version=4)
    cells = []
    for cell in notebook.cells:
        around = SETUP if "setup" in cell.metadata.get("tags", []) else ()
        fold = [nbformat.v4.new_markdown_cell(text) for text in around]
        cells += [*fold[:1], cell, *fold[1:]]
    notebook.cells = cells
    page, resources = MarkdownExporter().from_notebook_node(notebook)
    for name, picture in resources["outputs"].items():
        (folder / name).write_bytes(picture)
    lines, heading = [], ""
    for line, is_code in _lines(page):
        if line.startswith("#") and not is_code:
            heading = line.lstrip("# ")
        lines.append(re.sub(r"^!\[png\]", f"![{heading}]", line))
    return "\n".join(lines) + "\n"


def _example(source: Path) -> str:
    """The code of an example, under the first line of its docstring."""
    files = [source] if source.is_file() else sorted(source.glob("*.py"))
    about = ast.get_docstring(ast.parse(files[0].read_text(encoding="utf-8"))) or ""
    parts = [f"# {about.splitlines()[0].rstrip('.')}"]
    for file in files:
        code = file.read_text(encoding="utf-8")
        parts.append(f'```python title="{file.relative_to(ROOT)}"\n{code}```')
    return "\n\n".join(parts) + "\n"


def _table(found: re.Match[str]) -> str:
    """The table of another file that begins with this line."""
    text = (ROOT / found[1]).read_text(encoding="utf-8")
    rest = text[text.index(found[2]) :]
    return rest.partition("\n\n")[0]


def _linked(text: str, source: Path, page: Path, places: dict[Path, Path]) -> str:
    """The page with links to pages."""

    def address(found: re.Match[str]) -> str:
        if (PAGES / page.parent / found[1]).exists():  # a picture of a notebook
            return found[0]
        linked = Path(os.path.normpath(source.parent / found[1]))
        if linked not in places:
            raise ValueError(f"{source.relative_to(ROOT)} links to {found[1]}: no page")
        return "](" + os.path.relpath(places[linked], page.parent)

    lines, has_sections = [], text.startswith("::: ") or "\n::: " in text
    for line, is_code in _lines(text):
        has_sections |= line.startswith("## ") and not is_code
        lines.append(line if is_code else LINK.sub(address, line))
    is_wide = WIDE_TABLE.search(text) or not has_sections
    return (WIDE if is_wide else "") + "\n".join(lines) + "\n"


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is in a block of code."""
    is_code = False
    for line in text.splitlines():
        is_code ^= bool(FENCE.match(line))
        yield line, is_code


if __name__ == "__main__":
    main()
