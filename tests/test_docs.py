"""The reference is built without a warning, and everything public is in it, once."""

import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
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
    shutil.copy(ROOT / "zensical.toml", folder)
    for name in ("docs", "notebooks", "rmsprop_optax"):
        shutil.copytree(ROOT / name, folder / name)
    results = ROOT / "benchmarks/results"
    shutil.copytree(results, folder / "benchmarks/results")
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
                links.update(tab.evaluate(LINKS))
            for link in links:
                if link.startswith(home):
                    assert tab.request.get(link).ok, link
            browser.close()
        server.shutdown()


TOO_WIDE = "document.documentElement.scrollWidth > window.innerWidth"
LINKS = "[...document.querySelectorAll('a[href]')].map(a => a.href.split('#')[0])"


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
