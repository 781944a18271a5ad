"""The reference is built without a warning, and everything public is in it, once."""

import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rmsprop_optax

ROOT = Path(__file__).parents[1]
HEADING = re.compile(r'<h[1-6] id="(rmsprop_optax[\w.]*)"')

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("zensical") is None and not os.environ.get("CI"):
        pytest.skip("needs zensical: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("docs")
    for name in ("zensical.toml", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("docs", "notebooks", "examples", "rmsprop_optax", "benchmarks/results"):
        shutil.copytree(ROOT / name, folder / name)
    subprocess.run([sys.executable, folder / "docs/pages.py"], check=True)
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
        assert html.count("<math") >= least
    for page in site.rglob("*.html"):
        text = re.sub(
            r"<(script|pre|code)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL
        )
        assert "$" not in text, page
        assert "][rmsprop_optax" not in text, page
        # What the converter does not know, such as `aligned`, it leaves in the formula.
        assert not re.search(r"<mi>(&amp;|\\)", text), page


def test_each_page_is_in_the_menu_and_nothing_else_is_published(site: Path) -> None:
    with (ROOT / "zensical.toml").open("rb") as file:
        entries = [*_entries(tomllib.load(file)["project"]["nav"])]
    assert len({name for name, _ in entries}) == len(entries)
    made = site.parent / "build/pages"
    pages = [path.relative_to(made).as_posix() for path in made.rglob("*.md")]
    assert sorted(page for _, page in entries) == sorted(pages)
    assert [*site.rglob("*.py")] == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_page_in_a_browser(site: Path, width: int, scheme: Any) -> None:
    """Without network: nothing asked for elsewhere, no error, nothing too wide."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    handler = partial(_SilentHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=browser_path, args=["--no-sandbox"]
            )
            tab = browser.new_page(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            )
            problems: list[str] = []
            tab.on("console", lambda m: m.type == "error" and problems.append(m.text))
            tab.on("pageerror", lambda error: problems.append(str(error)))
            tab.on("response", lambda r: r.status < 400 or problems.append(r.url))
            tab.on(
                "request",
                lambda r: r.url.startswith((home, "data:")) or problems.append(r.url),
            )
            links: set[str] = set()
            for page in sorted(site.rglob("index.html")):
                path = page.parent.relative_to(site).as_posix()
                tab.goto(f"{home}{path}/".replace("/./", "/"))
                tab.wait_for_load_state("networkidle")
                assert not problems, (path, problems)
                assert not tab.evaluate(TOO_WIDE), path
                assert tab.evaluate(WITHOUT_COPY) == [], path
                assert [x for x in tab.evaluate(PATHS) if (ROOT / x).exists()] == [], path
                if width == 1280:
                    assert tab.evaluate(CUT) == [], path
                links.update(tab.evaluate(LINKS))
            copied = _copied(tab, f"{home}guides/embeddings/")
            assert copied.startswith("import jax,")
            assert ">>>" not in copied
            assert "RowSlices(" not in copied
            for link in links:
                if link.startswith(home):
                    assert tab.request.get(link).ok, link
            browser.close()
        server.shutdown()


TOO_WIDE = "document.documentElement.scrollWidth > window.innerWidth"
# Tables and signatures of which a part is seen only by scrolling.
CUT = """[...document.querySelectorAll('.md-typeset table, .doc-signature')].filter(x =>
  [x, x.closest('.md-typeset__scrollwrap'), ...x.querySelectorAll('pre, pre > code')]
    .some(e => e && e.scrollWidth > e.clientWidth + 1)
).map(x => x.innerText.slice(0, 80))"""
WITHOUT_COPY = """[...document.querySelectorAll('article pre')].filter(x =>
  !x.closest('.doc-signature') && !x.parentElement.querySelector('button')
).map(x => x.innerText.slice(0, 80))"""
# A path of a file is a link, where the repository has that file.
PATHS = r"""[...document.querySelectorAll('article code')].map(x => [x, x.innerText])
  .filter(([x, text]) => !x.closest('pre, a') && /^[\w.-]+\/[\w.\/-]+$/.test(text))
  .map(([x, text]) => text)"""
LINKS = "[...document.querySelectorAll('a[href]')].map(a => a.href.split('#')[0])"


def _copied(tab: Any, page: str) -> str:
    """What the button of the first block of code copies."""
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.goto(page)
    tab.wait_for_load_state("networkidle")
    block = tab.locator("article .highlight").first
    block.hover()
    block.locator("button").first.click()
    return tab.evaluate("navigator.clipboard.readText()")


def _entries(menu: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each page of the menu, with its name."""
    for entry in menu:
        for name, inside in entry.items():
            if not isinstance(inside, str):
                yield from _entries(inside)
            elif not inside.startswith("https:"):
                yield name, inside


class _SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Tests print nothing."""


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
