"""The site builds without a warning, its links lead somewhere, and it loads nothing from other hosts."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import PATIENCE, chromium
from tests.waiting import wait_until

from .pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]

SITE = ROOT / ".site" / "html"


class Html(HTMLParser):
    """Collects the anchors of a page, where it links to, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        self.loaded += [found[name] for name in ("src", "href") if name in found and tag != "a"]


@pytest.fixture(scope="module")
def site() -> dict[Path, Html]:
    command = [sys.executable, ROOT / "docs" / "scripts" / "site.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Html(path) for path in SITE.rglob("*.html")}


def test_every_page_is_in_the_navigation(site: dict[Path, Html]) -> None:
    nav = re.findall(r'= "([\w/-]+)\.md"', (ROOT / "zensical.toml").read_text(encoding="utf-8"))
    pages = [path.relative_to(SITE).with_suffix("").as_posix() for path in site if path.name != "404.html"]
    assert sorted(nav) == sorted(pages)


def test_links_resolve(site: dict[Path, Html]) -> None:
    broken = []
    for path, page in site.items():
        if path.name == "404.html":  # its links start at the root of a server
            continue
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists() or (
                parts.fragment and target in site and unquote(parts.fragment) not in site[target].anchors
            ):
                broken.append((path.relative_to(SITE).as_posix(), link))
    assert broken == []


def test_nothing_is_loaded_from_other_hosts(site: dict[Path, Html]) -> None:
    assert {link for page in site.values() for link in page.loaded if urlsplit(link).netloc} == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in SITE.rglob("*.css"))
    assert "url(http" not in styles
    assert "@import" not in styles


def test_the_reference_has_all_public_names(site: dict[Path, Html]) -> None:
    import cdk_inference

    anchors = {anchor.rpartition(".")[2] for path, page in site.items() for anchor in page.anchors if "." in anchor}
    assert set(cdk_inference.__all__) <= anchors
    # Methods of a base class too: those who read about a pipeline do not know that it has one.
    page = next(page for path, page in site.items() if path.match("reference/pipeline.html"))
    assert any(anchor.endswith("InferencePipeline.metric_rejected") for anchor in page.anchors)


def test_the_reference_shows_the_values_of_defaults(site: dict[Path, Html]) -> None:
    text = {path.stem: re.sub("<[^>]*>", "", path.read_text(encoding="utf-8")) for path in site}
    private = [found for page in text.values() for found in re.findall(r"(?:=|default:\s*)_[A-Z]\w+", page)]
    assert private == []
    assert re.search(r"\bbursts_per_month\s+\(\s*float,\s+default:\s+1\s", text["costs"])
    assert re.search(r"\bburst_hours\s+\(\s*float,\s+default:\s+730\s", text["costs"])


@pytest.fixture(scope="module")
def address(site: dict[Path, Html]) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_pages_fit_the_screen_in_both_schemes(browser: Browser, address: str) -> None:
    errors, hosts = [], set()
    pages = ("index.html", "start/tutorial.html", "operate/performance.html", "reference/pipeline.html")
    for scheme, visited in (("light", pages), ("dark", pages[:1])):
        context = browser.new_context(color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        view = context.new_page()
        view.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        view.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        for page in visited:
            view.goto(address + page)
            for width in (390, 1280):
                view.set_viewport_size({"width": width, "height": 900})
                assert view.evaluate("document.documentElement.scrollWidth <= innerWidth"), page
        shade = view.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
        assert (max(shade) < 64) if scheme == "dark" else (min(shade) > 192)
        context.close()
    assert (errors, hosts) == ([], {urlsplit(address).netloc})


def test_the_search_finds_a_heading(browser: Browser, address: str) -> None:
    from playwright.sync_api import TimeoutError as NotYet

    view = browser.new_page()
    view.set_default_timeout(PATIENCE)

    def found() -> bool:
        """Search once: keys that are pressed before the page listens are lost."""
        view.goto(address + "index.html")
        view.keyboard.press("Control+k")
        view.keyboard.type("slow and crashing objects")
        result = view.locator("a[href*='slow-and-crashing-objects']").first
        with contextlib.suppress(NotYet):
            result.wait_for(timeout=10_000)
        return result.is_visible()

    wait_until(found, lambda: "the search finds nothing")
    view.close()
