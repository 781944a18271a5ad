"""The reference is built without a warning, and everything public is in it, once."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import rmsprop_optax

ROOT = Path(__file__).parents[1]
HEADING = re.compile(r'<h[1-6] id="(rmsprop_optax[\w.]*)"')
FORMULA = re.compile(r'class="arithmatex">\\[\[(]')

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("zensical") is None and not os.environ.get("CI"):
        pytest.skip("needs zensical: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    for name in ("docs", "rmsprop_optax"):
        shutil.copytree(ROOT / name, folder / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # It does not count what the reader of docstrings finds.
    assert "griffe" not in done.stdout + done.stderr, done.stdout + done.stderr
    return folder / "site"


def test_everything_public_is_in_the_reference_once(site: Path) -> None:
    pages = [page.read_text() for page in site.rglob("*.html")]
    shown = Counter(name for page in pages for name in HEADING.findall(page))
    assert {name: shown[name] for name in _public(rmsprop_optax)} == dict.fromkeys(
        _public(rmsprop_optax), 1
    )


def test_formulas_are_rendered_and_no_markup_is_left(site: Path) -> None:
    for page, least in {"factory": 3, "dialects": 15, "transforms": 10}.items():
        html = (site / "reference" / page / "index.html").read_text()
        assert len(FORMULA.findall(html)) >= least
        assert "mathjax" in html
        text = re.sub(r"<(script|pre|code)\b.*?</\1>", "", html, flags=re.DOTALL)
        assert "$" not in text
        assert "][rmsprop_optax" not in text


def _public(module: ModuleType) -> list[str]:
    """Names of what it offers, and of what the modules among that offer."""
    names = []
    for name in module.__all__:
        offered = getattr(module, name)
        if isinstance(offered, ModuleType):
            names += [offered.__name__, *_public(offered)]
        else:
            names.append(f"{module.__name__}.{name}")
    return names
