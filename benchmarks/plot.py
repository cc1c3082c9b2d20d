"""The plot of the figures: bars in groups, with each value written next to its bar, as SVG.

Everything is placed by the widths of the texts, in a font that is wider than those of most systems. No text can meet
another mark or leave the picture, whatever the figures and names are.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH = 600
MARGIN = 20
LABELS = 200
"""Width of the row labels at most."""

GAP = 10
LEAST_BAR = 1.0
BAR = 12
"""Height of a bar."""

BAR_LINE = 17.5
"""Distance between the bars of a row."""

LINE = 1.35
"""Distance between lines of text, as a multiple of the font size."""

TITLE, HEADING, TEXT, SMALL = 21.0, 17.0, 15.0, 14.0
"""Font sizes. At a width of 400 pixels the smallest is 9 pixels high."""

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_BOLD_ROLES = ("title", "heading", "ours")
_BOLD = 1.2
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Upper bounds of the advance widths of DejaVu Sans, which is wider than Helvetica, Arial and the fonts of systems.
_WIDTHS = (
    (" ijl.,:;|!'", 0.34),
    ('()[]{}frtI-/\\`"', 0.47),
    ("mwMWOQ%@+=<>~#^_&\N{MULTIPLICATION SIGN}\N{HORIZONTAL ELLIPSIS}", 1.01),
)
_WIDE, _CAPITAL, _OTHER = 1.3, 0.79, 0.64


@dataclass(frozen=True)
class Bar:
    """One value.

    Attributes
    ----------
    name
        The name in the legend.
    value
        Its size; it must not be negative.
    shown
        The value in words.
    more
        The text after it.
    """

    name: str
    value: float
    shown: str
    more: str = ""


@dataclass(frozen=True)
class Row:
    """Values that are compared with one another; the first is ours."""

    label: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Panel:
    """Rows of one kind, under a heading.

    Attributes
    ----------
    title, note
        The heading, and a sentence below it.
    rows
        The rows.
    own_scale
        Whether each row has its own scale.
    """

    title: str
    note: str
    rows: Sequence[Row]
    own_scale: bool = False


@dataclass(frozen=True)
class Text:
    """A text at the start of its baseline; `role` is a class of the template."""

    x: float
    y: float
    size: float
    role: str
    text: str


@dataclass(frozen=True)
class Mark:
    """A rectangle; `role` is a class of the template."""

    x: float
    y: float
    width: float
    height: float
    role: str


@dataclass
class Drawing:
    """All that is drawn, and how far down it goes."""

    texts: list[Text] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    bottom: float = 0.0

    def write(self, text: str, size: float, role: str, *, x: float = MARGIN, width: float = WIDTH - 2 * MARGIN) -> None:
        """Write a text below everything, in as many lines as it needs."""
        bold = role in _BOLD_ROLES
        for line in wrapped(text, size, width, bold=bold):
            self.bottom += size * LINE
            self.texts.append(Text(x, self.bottom - size * (LINE - 1), size, role, line))


def draw(title: str, note: str, panels: Sequence[Panel]) -> str:
    """Return the plot as SVG.

    Parameters
    ----------
    title, note
        The heading of the plot, and sentences below it.
    panels
        The groups, from top to bottom.
    """
    drawing = Drawing(bottom=MARGIN / 2)
    drawing.write(title, TITLE, "title")
    drawing.write(note, SMALL, "note")
    for panel in panels:
        drawing.bottom += 1.6 * HEADING
        drawing.write(panel.title, HEADING, "heading")
        drawing.write(panel.note, SMALL, "note")
        _legend(drawing, panel)
        _rows(drawing, panel)
    return _TEMPLATES.get_template("plot.svg.j2").render(
        title=_clean(title),
        description=_clean(note),
        width=WIDTH,
        height=round(drawing.bottom + MARGIN),
        texts=drawing.texts,
        marks=drawing.marks,
    )


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return how wide a text is at most."""
    return sum(map(_character_width, text)) * size * (_BOLD if bold else 1)


def wrapped(text: str, size: float, width: float, *, bold: bool = False) -> list[str]:
    """Return text in lines of at most `width`; a word that is too long is divided."""
    lines: list[str] = []
    current = ""
    for word in _clean(text).split():
        for part in _parts(word, size, width, bold=bold):
            longer = f"{current} {part}" if current else part
            if current and text_width(longer, size, bold=bold) > width:
                lines.append(current)
                current = part
            else:
                current = longer
    return [*lines, current] if current else lines


def shortened(text: str, size: float, width: float, *, bold: bool = False) -> str:
    """Return as much of a text as fits into `width`."""
    text = " ".join(_clean(text).split())
    if text_width(text, size, bold=bold) <= width:
        return text
    while text and text_width(text + _ELLIPSIS, size, bold=bold) > width:
        text = text[:-1]
    return text.rstrip() + _ELLIPSIS


def _legend(drawing: Drawing, panel: Panel) -> None:
    """Name the contenders, next to one another where they fit."""
    by_role: dict[str, dict[str, None]] = {}
    for row in panel.rows:
        for index, bar in enumerate(row.bars):
            by_role.setdefault(_role(index), {})[bar.name] = None
    inset, right = BAR + 6, WIDTH - MARGIN
    drawing.bottom += 4
    x, top = float(MARGIN), drawing.bottom
    for role, names in by_role.items():
        text, bold = ", or ".join(names), role in _BOLD_ROLES
        needed = inset + text_width(_clean(text), SMALL, bold=bold)
        if x > MARGIN and x + needed > right:
            x, top = float(MARGIN), drawing.bottom
        bottom = drawing.bottom
        drawing.bottom = top
        drawing.write(text, SMALL, "ours" if bold else "note", x=x + inset, width=right - x - inset)
        drawing.marks.append(Mark(x, _middle(top + SMALL, SMALL) - BAR / 2, BAR, BAR, role))
        drawing.bottom = max(bottom, drawing.bottom, top + SMALL * LINE)
        x += needed + 2 * GAP
    drawing.bottom += 4


def _rows(drawing: Drawing, panel: Panel) -> None:
    widest = max(text_width(_clean(row.label), TEXT) for row in panel.rows)
    labels = min(widest, LABELS)
    start = MARGIN + labels + GAP
    scales = [_scale(row.bars, WIDTH - MARGIN - start) for row in panel.rows]
    for row, own in zip(panel.rows, scales, strict=True):
        drawing.bottom += 0.8 * GAP
        top = drawing.bottom
        drawing.write(row.label, TEXT, "label", width=LABELS)
        below_label = drawing.bottom
        scale = own if panel.own_scale else min(scales)
        for index, bar in enumerate(row.bars):
            baseline = top + index * BAR_LINE + TEXT
            length = max(bar.value * scale, LEAST_BAR)
            drawing.marks.append(Mark(start, _middle(baseline, SMALL) - BAR / 2, length, BAR, _role(index)))
            x = start + length + GAP * 0.7
            for role, text in (("ours" if index == 0 else "value", bar.shown), ("times", bar.more)):
                bold = role in _BOLD_ROLES
                shown = shortened(text, SMALL, WIDTH - MARGIN - x, bold=bold) if text else ""
                if shown:
                    drawing.texts.append(Text(x, baseline, SMALL, role, shown))
                    x += text_width(shown, SMALL, bold=bold) + GAP * 0.7
        drawing.bottom = max(below_label, top + len(row.bars) * BAR_LINE)


def _scale(bars: Sequence[Bar], space: float) -> float:
    """Return the pixels of one unit with which each bar and its texts fit into the space."""
    return min(_scales(bars, space), default=1.0)


def _scales(bars: Sequence[Bar], space: float) -> Iterator[float]:
    for index, bar in enumerate(bars):
        texts = text_width(bar.shown, SMALL, bold=index == 0) + text_width(bar.more, SMALL) + 2 * GAP
        if bar.value > 0:
            yield max(space - texts, LEAST_BAR) / bar.value


def _middle(baseline: float, size: float) -> float:
    """Return half the height of a text's capitals."""
    return baseline - 0.36 * size


def _role(index: int) -> str:
    return ("ours", "rival", "other")[min(index, 2)]


def _parts(word: str, size: float, width: float, *, bold: bool) -> Iterator[str]:
    part = ""
    for character in word:
        if part and text_width(part + character, size, bold=bold) > width:
            yield part
            part = ""
        part += character
    yield part


def _character_width(character: str) -> float:
    for characters, width in _WIDTHS:
        if character in characters:
            return width
    if unicodedata.east_asian_width(character) in "WF" or not character.isascii():
        return _WIDE
    return _CAPITAL if character.isupper() else _OTHER


def _clean(text: str) -> str:
    """Return a text without characters that XML forbids or nobody sees."""
    return "".join(c if c.isprintable() else " " if c.isspace() else _REPLACEMENT for c in text)
