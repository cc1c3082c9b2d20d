"""The cards in a real browser: nothing overflows, nothing is fetched, everything is there to be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.browser import chromium
from tests.constructs.model.card import entries

from cdk_inference.model.card import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = pytest.mark.xdist_group("browser")  # one browser, and each card once

KINDS = [entries.classification, entries.digits, entries.embedding, entries.regression, entries.minimal]
WIDTHS = [390, 700, 1280]
LEAST_CONTRAST = 4.5  # WCAG 2.2, AA

# Each text with its colour, and the background colours below it from the nearest to the farthest.
TEXTS = """() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.textContent.trim() || !parent.checkVisibility() || parent.closest("title, .hidden")) continue;
    const style = getComputedStyle(parent), backgrounds = [];
    for (let e = parent; e; e = e.parentElement) backgrounds.push(getComputedStyle(e).backgroundColor);
    found.push([node.textContent.trim(), parent.closest("svg") ? style.fill : style.color, backgrounds]);
  }
  return found;
}"""
# Pixels tell what a colour is, in whatever way it is written.
COLOUR = """colours => {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d", {willReadFrequently: true});
  return colours.map(c => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = c;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  });
}"""
PLOTS = """() => [...document.querySelectorAll(".plot")].map(plot => {
  const shown = [...plot.querySelectorAll("svg")].filter(s => s.checkVisibility());
  return shown.map(svg => {
    const box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
    return {
      width: box.width, height: box.height, left: box.left, right: box.right, top: box.top, bottom: box.bottom,
      texts: texts.map(([text, b]) => ({text, left: b.left, right: b.right, top: b.top, bottom: b.bottom})),
      size: parseFloat(getComputedStyle(svg.querySelector("text")).fontSize) * box.width / svg.viewBox.baseVal.width,
    };
  });
})"""


@pytest.fixture(scope="module")
def blank() -> Iterator[Page]:
    """One page for all tests: a new one for each takes the browser a second."""
    with chromium() as browser:
        yield browser.new_page()


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cards")
    return {kind.__name__: render(kind(root / kind.__name__)).html for kind in (*KINDS, crowded)}


@pytest.fixture
def open_card(blank: Page) -> Iterator[Callable[..., Page]]:
    """Open a file; console messages, errors and requests other than for the file itself fail the test."""
    heard: list[tuple[str, str]] = []
    listeners = {
        "console": lambda message: heard.append(("console", message.text)),
        "pageerror": lambda error: heard.append(("error", str(error))),
        "request": lambda request: heard.append(("request", request.url)),
    }
    files = ("data:",)
    for event, listener in listeners.items():
        blank.on(event, listener)

    def open_card(file: Path, *, width: int = 1280, scheme: Any = "light") -> Page:
        nonlocal files
        files = (*files, file.as_uri())
        blank.set_viewport_size({"width": width, "height": 900})
        blank.emulate_media(media="screen", color_scheme=scheme)
        blank.goto(file.as_uri(), wait_until="load")
        return blank

    yield open_card
    for event, listener in listeners.items():
        blank.remove_listener(event, listener)
    assert [(kind, text) for kind, text in heard if kind != "request" or not text.startswith(files)] == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_page_fits_and_its_images_and_plots_are_seen(
    open_card: Callable[..., Page], cards: dict[str, Path], kind: Any, width: int
) -> None:
    page = open_card(cards[kind.__name__], width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.lang") == "en"
    # Nothing but what scrolls on its own reaches beyond the page.
    beyond = page.evaluate(
        """width => [...document.body.querySelectorAll("*")].filter(e => e.checkVisibility()
        && !e.closest(".scroll, .hidden, thead, svg") && e.getBoundingClientRect().right > width + 0.5)
        .map(e => e.outerHTML.slice(0, 200))""",
        width,
    )
    assert beyond == []
    images = page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth, i.alt])")
    assert len(images) == {"classification": 12, "digits": 12}.get(kind.__name__, 0)
    assert all(complete and natural > 0 and shown > 40 and alt for complete, natural, shown, alt in images)
    plots = page.evaluate(PLOTS)
    assert len(plots) == {"minimal": 0, "classification": 1, "digits": 1}.get(kind.__name__, 2)
    for shown in plots:
        [plot] = shown  # the wide or the narrow one, not both
        assert plot["width"] >= 300
        assert plot["height"] >= 200
        assert plot["size"] >= 10.5  # pixels of the smallest texts


def overlaps(a: dict[str, Any], b: dict[str, Any]) -> bool:
    slack = 1.5  # boxes of texts are higher than their letters
    return bool(
        a["left"] < b["right"] - slack
        and b["left"] < a["right"] - slack
        and a["top"] < b["bottom"] - slack
        and b["top"] < a["bottom"] - slack
    )


def crowded(folder: Path) -> Path:
    """Fourteen candidates, most of them nearly the same."""
    random = np.random.default_rng(2)
    candidates = [entries.CANDIDATES[0]]
    for number in range(13):
        quality, latency = 0.97 + 0.004 * random.random(), 3.0 + 0.2 * random.random()
        status = "shipped" if number == 4 else "failed" if number % 3 == 0 else "passed"
        name = f"static int8, percentile 99.{'9' * (number + 1)}, {number} in float"
        candidates.append(
            entries.candidate(name, "static_int8", status, quality, 0.99, 5_000_000 + number * 10_000, latency, 1.8)
        )
    return entries.classification(folder, candidates=candidates)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", [*KINDS[:4], crowded], ids=lambda kind: kind.__name__)
def test_no_label_in_a_plot_covers_another_or_is_cut_off(
    open_card: Callable[..., Page], cards: dict[str, Path], kind: Any, width: int
) -> None:
    page = open_card(cards[kind.__name__], width=width)
    for [plot] in page.evaluate(PLOTS):
        for index, text in enumerate(plot["texts"]):
            assert text["left"] >= plot["left"] - 1, text
            assert text["right"] <= plot["right"] + 1, text
            assert text["top"] >= plot["top"] - 1, text
            assert text["bottom"] <= plot["bottom"] + 1, text
            for other in plot["texts"][index + 1 :]:
                assert not overlaps(text, other), (text, other)


def luminance(colour: list[float]) -> float:
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: list[float], b: list[float]) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_text_can_be_read_in_both_schemes(
    open_card: Callable[..., Page], cards: dict[str, Path], kind: Any, scheme: str
) -> None:
    page = open_card(cards[kind.__name__], scheme=scheme)
    texts = page.evaluate(TEXTS)
    assert len(texts) > 30
    names = sorted({c for _, colour, backgrounds in texts for c in (colour, *backgrounds)})
    pixels = dict(zip(names, page.evaluate(COLOUR, names), strict=True))
    for text, colour, backgrounds in texts:
        below = [255.0, 255.0, 255.0]
        for name in reversed(backgrounds):
            *layer, alpha = pixels[name]
            below = [b + (c - b) * alpha / 255 for b, c in zip(below, layer, strict=True)]
        assert contrast(pixels[colour][:3], below) >= LEAST_CONTRAST, (text, colour, backgrounds)


def test_the_dark_scheme_is_dark_and_the_plots_follow(open_card: Callable[..., Page], cards: dict[str, Path]) -> None:
    found = {}
    for scheme in ("light", "dark"):
        page = open_card(cards["classification"], scheme=scheme)
        body = page.evaluate("getComputedStyle(document.body).backgroundColor")
        marks = page.evaluate("getComputedStyle(document.querySelector('.plot svg text')).fill")
        found[scheme] = [luminance(p) for p in page.evaluate(COLOUR, [body, marks])]
    assert found["light"][0] > 0.9
    assert found["light"][1] < 0.2
    assert found["dark"][0] < 0.02
    assert found["dark"][1] > 0.3


def test_a_hostile_card_runs_nothing_and_keeps_its_layout(open_card: Callable[..., Page], tmp_path: Path) -> None:
    huge = "<script>document.title='owned'</script><img src=x onerror=alert(1)>" + "W" * 3000
    candidates = [{**c, "name": huge, "reason": "\u202e" + huge} for c in entries.CANDIDATES]
    folder = entries.classification(
        tmp_path / "hostile", candidates=candidates, class_names=[huge] * 1000, architecture=huge
    )
    with np.load(folder / "samples.npz") as arrays:
        np.savez(folder / "samples.npz", input_images=arrays["input_images"], descriptions=np.array([huge] * 12))
    for width in WIDTHS:
        page = open_card(render(folder).html, width=width)
        assert page.title() == "efficientnet-lite0, model card"
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_card_prints_in_black_on_white_with_all_its_parts(
    open_card: Callable[..., Page], cards: dict[str, Path], tmp_path: Path
) -> None:
    page = open_card(cards["classification"], scheme="dark")
    page.emulate_media(media="print")
    body = page.evaluate(COLOUR, [page.evaluate("getComputedStyle(document.body).backgroundColor")])
    assert luminance(body[0]) > 0.9
    page.pdf(path=tmp_path / "card.pdf", format="A4")
    assert (tmp_path / "card.pdf").stat().st_size > 50_000


def test_the_outline_and_the_tables_are_told_to_screen_readers(
    open_card: Callable[..., Page], cards: dict[str, Path]
) -> None:
    page = open_card(cards["classification"])
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(page.evaluate("[...document.querySelectorAll('th')].map(t => t.scope === 'col' || t.scope === 'row')"))
    assert page.get_by_role("img", name="Plot of top-1 agreement against latency").count() == 1
    assert page.get_by_role("img", name="chelsea.png").count() == 2
    assert page.get_by_role("row").count() > 30
    assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
