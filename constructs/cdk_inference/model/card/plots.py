"""The plots: SVG whose colours and fonts are the page's, so that they follow its dark and light scheme."""

from __future__ import annotations

import io
import math
import re
import unicodedata
import warnings
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from cdk_inference.model.card.escaping import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from cdk_inference.model.card.entry import Array

Shape = Literal["reference", "shipped", "passed", "other", "failed"]

# Matplotlib draws with these; afterwards each becomes the page's variable of that name.
_COLOURS = {
    "ink": "#010203",
    "muted": "#020304",
    "line": "#030405",
    "accent": "#040506",
    "fail": "#050607",
    "reference": "#060708",
    "surface": "#070809",
}
_MARKERS: dict[Shape, str] = {"reference": "s", "shipped": "o", "passed": "o", "other": "D", "failed": "X"}
_HUES: dict[Shape, str] = {
    "reference": "reference",
    "shipped": "accent",
    "passed": "accent",
    "other": "muted",
    "failed": "fail",
}
# Over matplotlib's own settings, whatever the user's are.
_SETTINGS = mpl.rc_context(
    {
        **{name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")},
        "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
        "text.parse_math": False,  # a name with dollar signs is not a formula
        "font.size": 12,
    }
)
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
_MOST_POINTS = 600
_LOG_FROM = 12  # ratio of the largest to the smallest latency from which a linear axis hides the small ones
_SMALLEST, _LARGEST = 60.0, 900.0  # area of a marker, square points
_EM = 0.56  # mean width of a letter, wider than in the fonts of most systems


@dataclass(frozen=True)
class Canvas:
    """Where a plot will be shown: its size in CSS pixels, and whether there is room for names."""

    key: str
    width: int
    height: int
    names: bool


WIDE = Canvas("wide", 960, 400, names=True)
NARROW = Canvas("narrow", 350, 330, names=False)
SQUARE = Canvas("wide", 600, 560, names=True)


@dataclass(frozen=True)
class Point:
    """A candidate in the plot of quality against cost."""

    number: int
    name: str
    shape: Shape
    cost: float
    quality: float
    area: float
    tip: str


@dataclass(frozen=True)
class Box:
    """A rectangle in points, lower left and upper right corner."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        """Return whether the two share a place."""
        return not (
            self.right <= other.left or other.right <= self.left or self.top <= other.bottom or other.top <= self.bottom
        )

    def distance(self, x: float, y: float) -> float:
        """Return how far a place is from the nearest edge."""
        return math.dist((min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)), (x, y))

    def within(self, other: Box) -> bool:
        """Return whether this is inside of the other."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.bottom >= other.bottom
            and self.top <= other.top
        )


@_SETTINGS
def trade_off(
    points: Sequence[Point],
    canvas: Canvas,
    *,
    cost_label: str,
    quality_label: str,
    limit: float,
    limit_label: str,
    higher_is_better: bool,
    show_quality: Callable[[float], str],
) -> str:
    """Draw quality against latency (or size), marker areas in proportion to `Point.area`.

    A value far beyond the gate is drawn at the edge with an arrow, so that it does not squeeze the others.
    """
    figure, axes = _axes(canvas, left=64 if canvas.names else 52, bottom=46)
    low, high = _quality_range(points, limit, higher_is_better=higher_is_better)
    axes.set_ylim(low, high)
    if not higher_is_better:
        axes.invert_yaxis()  # up is better in every card
    costs = [p.cost for p in points]
    log = max(costs) / max(min(costs), 1e-12) > _LOG_FROM
    if log:
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 1.5, max(costs) * 1.5)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, max(costs) * 1.15)
        axes.xaxis.set_major_locator(AutoLocator() if canvas.names else MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show_quality(value)))
    axes.grid(axis="y", color=_COLOURS["line"], linewidth=1)
    axes.set_xlabel(cost_label, color=_COLOURS["muted"])
    axes.set_title(quality_label, loc="left", color=_COLOURS["muted"], x=0, pad=14)
    worse = axes.get_ylim()[0]
    axes.axhspan(min(worse, limit), max(worse, limit), color=_COLOURS["fail"], alpha=0.07, linewidth=0)
    axes.axhline(limit, color=_COLOURS["fail"], linewidth=1.25, dashes=(5, 4))

    largest = max(p.area for p in points)
    placed = []
    for point in sorted(points, key=lambda p: -p.area):  # small ones on top of large ones
        height = 4 if point.shape == "shipped" else 3  # the winner is always to be seen
        quality = min(max(point.quality, low), high)
        outside = quality != point.quality
        area = max(_SMALLEST, _LARGEST * (1 if canvas.names else 0.6) * point.area / largest)
        if point.shape == "failed":
            area *= 1.3  # a cross looks smaller than a circle or a square of its extent
        hue = _COLOURS[_HUES[point.shape]]
        filled = point.shape in ("shipped", "reference", "failed")
        axes.scatter(
            [point.cost],
            [quality],
            s=area,
            marker=_MARKERS[point.shape],
            facecolor=hue if filled else "none",
            edgecolor=_COLOURS["surface"] if filled else hue,
            linewidth=1 if filled else 2,
            zorder=height,
            clip_on=False,
            gid=f"point-{point.number}",
        )
        if point.shape == "shipped":
            ring = (math.sqrt(area) + 9) ** 2
            axes.scatter([point.cost], [quality], s=ring, facecolor="none", edgecolor=hue, linewidth=1.5, zorder=height)
        x, y = axes.transData.transform((point.cost, quality)) * 72 / figure.dpi
        radius = math.sqrt(area) * (0.7 if point.shape == "other" else 0.5) + (5 if point.shape == "shipped" else 0)
        placed.append((point, float(x), float(y), radius, outside))
    _label(axes, placed, canvas, limit, limit_label)
    return _svg(figure, f"trade-{canvas.key}", {f"point-{p.number}": p.tip for p in points})


@_SETTINGS
def histogram(values: Array, canvas: Canvas, *, label: str, mean: float, mean_label: str, unit: str) -> str:
    """Draw how many samples have which value."""
    figure, axes = _axes(canvas, left=44, bottom=46)
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:  # noqa: PLR2004  # all the same: a range of no width has no bins
        low, high = low - 5e-4, high + 5e-4
    bins = int(min(40 if canvas.names else 20, max(8, round(2 * math.sqrt(len(values))))))
    axes.hist(values, bins=bins, range=(low, high), color=_COLOURS["accent"], rwidth=0.9)
    axes.axvline(mean, color=_COLOURS["ink"], linewidth=1.25, dashes=(2, 3))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(7 if canvas.names else 4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.grid(axis="y", color=_COLOURS["line"], linewidth=1)
    axes.set_xlabel(label, color=_COLOURS["muted"])
    axes.set_title(unit, loc="left", color=_COLOURS["muted"], pad=20)
    share = (mean - axes.get_xlim()[0]) / (axes.get_xlim()[1] - axes.get_xlim()[0])
    axes.annotate(
        mean_label,
        (mean, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if share > 0.5 else 6, 6),  # noqa: PLR2004
        textcoords="offset points",
        ha="right" if share > 0.5 else "left",  # noqa: PLR2004
        color=_COLOURS["ink"],
        annotation_clip=False,
    )
    return _svg(figure, f"histogram-{canvas.key}", {})


@_SETTINGS
def scatter(expected: Array, deployed: Array, canvas: Canvas, *, expected_label: str, deployed_label: str) -> str:
    """Draw deployed against expected values, at most a few hundred of them, evenly picked."""
    figure, axes = _axes(canvas, left=64 if canvas.names else 52, bottom=46)
    x, y = expected.reshape(-1), deployed.reshape(-1)
    step = max(1, math.ceil(len(x) / _MOST_POINTS))
    x, y = x[::step], y[::step]
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    margin = (high - low) * 0.05 or 0.5
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(low - margin, high + margin)
    axes.plot([low, high], [low, high], color=_COLOURS["reference"], linewidth=1.25, zorder=1)
    axes.scatter(x, y, s=26, color=_COLOURS["accent"], alpha=0.55, linewidth=0, zorder=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6 if canvas.names else 4))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.grid(color=_COLOURS["line"], linewidth=1)
    axes.set_xlabel(expected_label, color=_COLOURS["muted"])
    axes.set_title(deployed_label, loc="left", color=_COLOURS["muted"], pad=14)
    return _svg(figure, f"scatter-{canvas.key}", {})


def glyph(shape: Shape) -> str:
    """Draw the marker of a status for the table; the same shape as in the plot."""
    paths: dict[Shape, str] = {
        "reference": '<rect x="3" y="3" width="10" height="10" fill="var(--reference)"/>',
        "shipped": '<circle cx="8" cy="8" r="4" fill="var(--accent)"/>'
        '<circle cx="8" cy="8" r="7" fill="none" stroke="var(--accent)" stroke-width="1.5"/>',
        "passed": '<circle cx="8" cy="8" r="5" fill="none" stroke="var(--accent)" stroke-width="2"/>',
        "other": '<path d="M8 2l6 6-6 6-6-6z" fill="none" stroke="var(--muted)" stroke-width="2"/>',
        "failed": '<path d="M5 2l3 3 3-3 3 3-3 3 3 3-3 3-3-3-3 3-3-3 3-3-3-3z" fill="var(--fail)"/>',
    }
    return f'<svg class="glyph" viewBox="0 0 16 16" aria-hidden="true">{paths[shape]}</svg>'


def _axes(canvas: Canvas, *, left: float, bottom: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(canvas.width / 72, canvas.height / 72), dpi=72)
    axes = figure.add_axes(
        (
            left / canvas.width,
            bottom / canvas.height,
            1 - (left + 14) / canvas.width,
            1 - (bottom + 40) / canvas.height,
        )
    )
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_COLOURS["muted"])
    axes.tick_params(length=0, labelcolor=_COLOURS["muted"], pad=8)
    axes.set_axisbelow(True)
    return figure, axes


def _quality_range(points: Sequence[Point], limit: float, *, higher_is_better: bool) -> tuple[float, float]:
    """Return the part of the quality axis that is shown: a few allowances beyond the gate, no further."""
    sign = 1 if higher_is_better else -1
    values = [sign * p.quality for p in points]
    reference = values[0]
    allowance = max(abs(reference - sign * limit), 0.002 * abs(limit), 1e-9)
    floor = sign * limit - 2.5 * allowance
    low = max(min([*values, sign * limit]), floor)
    high = max([*values, sign * limit])
    margin = 0.12 * max(high - low, allowance)
    low, high = low - margin, high + margin
    return (low, high) if higher_is_better else (-high, -low)


def _width(text: str, size: float) -> float:
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else _EM for c in text) * size


def _label(
    axes: Axes,
    placed: Sequence[tuple[Point, float, float, float, bool]],
    canvas: Canvas,
    limit: float,
    limit_label: str,
) -> None:
    """Write names, or numbers where names find no room, next to the markers, and none over another."""
    height = 15.0
    area = axes.get_window_extent()
    inside = Box(2, area.y0 + 1, canvas.width - 2, area.y1 + 14)
    taken = [Box(x - r, y - r, x + r, y + r) for _, x, y, r, _ in placed]
    gate_y = float(axes.transData.transform((1, limit))[1])
    taken.append(Box(area.x0, gate_y - 1, area.x1, gate_y + 1))

    def write(text: str, box: Box, colour: str, *, bold: bool = False) -> None:
        axes.annotate(
            text,
            (box.left, box.bottom + 3.5),
            xycoords="figure points",
            color=_COLOURS[colour],
            fontweight="bold" if bold else "normal",
            annotation_clip=False,
        )

    gate_width = _width(limit_label, 12)
    corners = [
        Box(x, y, x + gate_width, y + height)
        for x in (area.x1 - gate_width, area.x0 + 4, (area.x0 + area.x1 - gate_width) / 2)
        for y in (gate_y - height - 2, gate_y + 2)
    ]
    corner = next((c for c in corners if not any(c.overlaps(t) for t in taken)), corners[0])
    taken.append(corner)
    write(limit_label, corner, "fail")

    # The winner and the reference choose first.
    order = {"shipped": 0, "reference": 1}
    centres = [(x, y) for _, x, y, _, _ in placed]
    for point, x, y, radius, outside in sorted(placed, key=lambda p: (order.get(p[0].shape, 2), p[0].number)):
        arrow = " ↓" if outside else ""
        number = f"{point.number}{arrow}"
        name = f"{clean(point.name, 44)}{arrow}"
        tries = [(name, centres), (number, centres)] if canvas.names else [(number, centres)]
        if point.shape in order:  # in a crowd, with a line from the marker
            tries.insert(1, (tries[0][0], []))
        for text, others in tries:
            box = _free(x, y, radius, _width(text, 12), height, taken, inside, others)
            if box is not None:
                break
        else:
            continue  # its number stands in the table, and its marker tells its name
        taken.append(box)
        near = (min(max(x, box.left), box.right), min(max(y, box.bottom), box.top))
        if math.dist(near, (x, y)) > radius + 9:
            axes.annotate(
                "",
                xy=(x, y),
                xytext=near,
                xycoords="figure points",
                textcoords="figure points",
                arrowprops={
                    "arrowstyle": "-",
                    "color": _COLOURS["muted"],
                    "linewidth": 0.8,
                    "shrinkA": 1,
                    "shrinkB": radius + 1,
                },
                annotation_clip=False,
            )
        write(text, box, "ink" if point.shape in ("shipped", "reference") else "muted", bold=point.shape == "shipped")


def _free(
    x: float,
    y: float,
    radius: float,
    width: float,
    height: float,
    taken: Sequence[Box],
    inside: Box,
    centres: Sequence[tuple[float, float]],
) -> Box | None:
    """Return the nearest free place for a text around a marker, which no other marker is closer to."""
    for gap in (5, 11, 18, 27, 38, 52):
        reach = radius + gap
        slant = reach * 0.75
        for left, bottom in (
            (x + reach, y - height / 2),
            (x - width / 2, y + reach - 3),
            (x - width / 2, y - reach - height + 3),
            (x - reach - width, y - height / 2),
            (x + slant, y + slant - 4),
            (x + slant, y - slant - height + 4),
            (x - slant - width, y + slant - 4),
            (x - slant - width, y - slant - height + 4),
        ):
            box = Box(left, bottom, left + width, bottom + height)
            if not box.within(inside) or any(box.overlaps(t) for t in taken):
                continue
            own = box.distance(x, y)
            if all(box.distance(*other) >= own for other in centres):
                return box
    return None


def _svg(figure: Figure, salt: str, tips: dict[str, str]) -> str:
    """Return a figure as SVG for the inside of a page, the same bytes for the same figure."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that matplotlib's font lacks: the page's fonts show the text
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    root = ET.fromstring(stream.getvalue())  # noqa: S314  # matplotlib wrote it just now
    names = {value: f"var(--{key})" for key, value in _COLOURS.items()}
    referenced = set(re.findall(r"#([\w-]+)", " ".join(v for e in root.iter() for v in e.attrib.values())))
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
        _adapt(parent, names, referenced, salt)
        if parent.get("data-tip") in tips:
            title = ET.Element(f"{_SVG}title")
            title.text = tips[parent.attrib.pop("data-tip")]
            parent.insert(0, title)
        else:
            parent.attrib.pop("data-tip", None)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    text = ET.tostring(_unprefixed(root), encoding="unicode")
    return re.sub(r">\s+<", "><", text)


def _adapt(element: ET.Element, names: dict[str, str], referenced: set[str], salt: str) -> None:
    """Replace colours, drop the fonts, and make what is referred to by id unique in a page with many plots."""
    style = element.get("style")
    if style is not None:
        declarations = [d.strip() for d in style.split(";") if d.strip()]
        kept = [d for d in declarations if not d.startswith(("font-family", "font-variant", "font-stretch"))]
        kept = [re.sub(r"^font: (?:(bold|\d+) )?([\d.]+)px .*", _font, d) for d in kept]
        for colour, variable in names.items():
            kept = [d.replace(colour, variable) for d in kept]
        element.set("style", "; ".join(kept))
    for name, value in list(element.attrib.items()):
        if name == f"{_XLINK}href":
            del element.attrib[name]
            element.set("href", value.replace("#", f"#{salt}-"))
        elif "url(#" in value:
            element.set(name, value.replace("url(#", f"url(#{salt}-"))
    identity = element.attrib.pop("id", None)
    if identity in referenced:
        element.set("id", f"{salt}-{identity}")
    elif identity is not None and identity.startswith("point-"):
        element.set("data-tip", identity)


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px"


def _unprefixed(root: ET.Element) -> ET.Element:
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
    return root
