"""The site builds without a warning, its links lead somewhere, and it loads nothing from other hosts."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from .pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

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
