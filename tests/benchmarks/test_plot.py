"""The plot can be read: no text lies under a mark or another text, and nothing leaves the picture."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import ImageFont
from tests.browser import chromium

from benchmarks import plot, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page

pytestmark = pytest.mark.xdist_group("plot")  # one process has the browser

SVG = "{http://www.w3.org/2000/svg}"
BOLD = {"title", "heading", "ours"}
LEAST_SIZE = 14
LONG = "a model with a name that goes on and on, and_one_word_that_no_line_can_hold_because_nobody_ends_it " * 3


@dataclass(frozen=True)
class Box:
    """The area that something covers."""

    what: str
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            min(self.right, other.right) - max(self.left, other.left) > 0.1
            and min(self.bottom, other.bottom) - max(self.top, other.top) > 0.1
        )


@cache
def font(*, bold: bool) -> ImageFont.FreeTypeFont:
    """Return the widest font of those that the plot asks for, large, since hinting rounds small ones."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / name, 1000)


def boxes(svg: str) -> tuple[Box, list[Box], list[Box]]:
    """Return the picture, its texts as they are drawn in DejaVu Sans, and its marks."""
    root = ET.fromstring(svg)  # noqa: S314 - ours
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    texts = []
    for text in root.iter(f"{SVG}text"):
        x, y, size = (float(text.attrib[name]) for name in ("x", "y", "font-size"))
        assert size >= LEAST_SIZE
        measure = font(bold=text.attrib["class"] in BOLD)
        ascent, descent = measure.getmetrics()
        drawn = measure.getlength(text.text) / 1000 * size
        texts.append(Box(text.text, x, y - ascent / 1000 * size, x + drawn, y + descent / 1000 * size))
    marks = []
    for rect in root.iter(f"{SVG}rect"):
        x, y, wide, high = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        if rect.attrib["class"] != "panel":
            marks.append(Box(rect.attrib["class"], x, y, x + wide, y + high))
    return Box("picture", 0, 0, width, height), texts, marks


def faults(picture: Box, texts: list[Box], marks: list[Box]) -> Iterator[str]:
    """Yield what cannot be read."""
    for box in (*texts, *marks):
        if box.left < 0 or box.top < 0 or box.right > picture.right or box.bottom > picture.bottom:
            yield f"{box} leaves {picture}"
    for one, other in combinations((*texts, *marks), 2):
        if one.meets(other):
            yield f"{one} meets {other}"


def readable(svg: str) -> None:
    picture, texts, marks = boxes(svg)
    assert texts
    assert marks
    assert not list(faults(picture, texts, marks))


def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return the figures of the docs, each changed."""
    data = copy.deepcopy(report.read())
    for run in data["runs"]:
        for figure in run["figures"]:
            change(figure)
    return data


def scaled(side: str, factor: float, *names: str) -> Callable[[dict[str, Any]], None]:
    def change(figure: dict[str, Any]) -> None:
        if not names or figure["name"] in names:
            figure[side]["median"] *= factor

    return change


def renamed(figure: dict[str, Any]) -> None:
    figure["facts"]["model"] = f"{figure['facts'].get('model')} {LONG}"


HOSTILE = {
    "as published": lambda _: None,
    "one value 100 times larger": scaled("theirs", 100, "handler/minilm", "memory/digits", "synth/reference"),
    "ours 100 times larger": scaled("ours", 100),
    "nothing left of ours": scaled("ours", 0),
    "values beyond all units": scaled("theirs", 1e30, "handler/minilm"),
    "long names": renamed,
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_no_text_meets_another_mark(change: Callable[[dict[str, Any]], None]) -> None:
    readable(report.drawing(changed(change)))


LETTERS = st.characters(codec="utf-8", max_codepoint=0x24F, exclude_categories=["Cs"])
NAMES = st.text(LETTERS, max_size=120)
BARS = st.builds(plot.Bar, NAMES, st.floats(0, 1e15), NAMES, NAMES)
ROWS = st.builds(plot.Row, NAMES, st.lists(BARS, min_size=1, max_size=4))
PANELS = st.builds(plot.Panel, NAMES, NAMES, st.lists(ROWS, min_size=1, max_size=4), st.booleans())


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
@given(title=NAMES, note=NAMES, panels=st.lists(PANELS, min_size=1, max_size=3))
def test_any_names_and_values_can_be_read(title: str, note: str, panels: list[plot.Panel]) -> None:
    picture, texts, marks = boxes(plot.draw(title, note, panels))
    assert not list(faults(picture, texts, marks))
    # One for each value, and one for each contender in a legend.
    assert len(marks) >= sum(len(row.bars) + 1 for panel in panels for row in panel.rows[:1])


def test_the_check_finds_what_cannot_be_read() -> None:
    svg = report.drawing(report.read())
    picture, texts, marks = boxes(svg)
    value = next(text for text in texts if text.what.endswith(" ms"))
    for moved in (
        Box("under a bar", *(marks[3].left + 1, marks[3].top, marks[3].right, marks[3].bottom)),
        Box("under a text", value.left, value.top, value.right, value.bottom),
        Box("clipped", picture.right - 5, 1, picture.right + 5, 5),
        Box("above", 1, -1, 5, 5),
    ):
        assert list(faults(picture, [*texts, moved], marks))


def test_bars_of_a_group_have_one_scale_unless_it_says_otherwise() -> None:
    rows = [plot.Row("a", [plot.Bar("x", 10, "10"), plot.Bar("y", 40, "40")]), plot.Row("b", [plot.Bar("x", 20, "20")])]
    for own, expected in ((False, [1, 4, 2]), (True, None)):
        _, _, marks = boxes(plot.draw("t", "n", [plot.Panel("p", "n", rows, own)]))
        lengths = [mark.right - mark.left for mark in marks[-3:]]
        assert lengths[1] / lengths[0] == pytest.approx(4, rel=0.01)
        if expected:
            assert lengths[2] / lengths[0] == pytest.approx(2, rel=0.01)
        else:
            assert lengths[2] / lengths[0] > 3


def test_the_plot_has_plain_names() -> None:
    drawn = " ".join(text.what for text in boxes(report.drawing(report.read()))[1])
    for found in ("this library", "onnxruntime, float32, pip install", "PyTorch eager", "EfficientNet-Lite0"):
        assert found in drawn
    names = {figure["name"] for run in report.read()["runs"] for figure in run["figures"]}
    assert not [name for name in names if f" {name} " in drawn or name.replace("_", " ") in drawn]


def test_markup_in_names_is_text() -> None:
    name = '<script>alert("&amp;")</script>'
    svg = plot.draw(name, name, [plot.Panel(name, name, [plot.Row(name, [plot.Bar(name, 1, name, "\0\x1b")])])])
    assert "script" in "".join(text.what for text in boxes(svg)[1])
    assert not ET.fromstring(svg).findall(f".//{SVG}script")  # noqa: S314


DRAWN = """() => {
  const box = (e, what) => {
    const b = e.getBoundingClientRect();
    return [what, b.left, b.top, b.right, b.bottom];
  };
  return {
    picture: box(document.querySelector("svg"), "picture"),
    texts: [...document.querySelectorAll("text")].map(t => box(t, t.textContent)),
    marks: [...document.querySelectorAll("rect:not(.panel)")].map(r => box(r, r.className.baseVal)),
    colours: ["text.note", "text.value", "text.ours", "rect.ours", "rect.rival", "rect.other"].map(
      selector => getComputedStyle(document.querySelector(selector)).fill
    ),
    panel: getComputedStyle(document.querySelector("rect.panel")).fill,
  };
}"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as found:
        yield found.new_page()


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.2."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def drawn(page: Page, svg: str, width: int, scheme: str = "light") -> dict[str, Any]:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.set_content(f"<style>body {{ margin: 0 }} svg {{ width: 100%; height: auto }}</style>{svg}")
    return page.evaluate(DRAWN)


@pytest.mark.parametrize("width", [400, 800])
@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_browser_draws_it_readably(page: Page, width: int, change: Callable[[dict[str, Any]], None]) -> None:
    found = drawn(page, report.drawing(changed(change)), width)
    assert found["picture"][3] == width
    texts, marks = ([Box(*box) for box in found[kind]] for kind in ("texts", "marks"))
    assert not list(faults(Box(*found["picture"]), texts, marks))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_contrast_in_both_schemes(page: Page, scheme: str) -> None:
    found = drawn(page, report.drawing(report.read()), 800, scheme)
    behind = luminance(found["panel"])
    assert (behind > 0.5) == (scheme == "light")
    for index, colour in enumerate(found["colours"]):
        lighter, darker = sorted((luminance(colour), behind), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= (4.5 if index < 3 else 3.0)  # WCAG 2.2, AA: texts and graphics
