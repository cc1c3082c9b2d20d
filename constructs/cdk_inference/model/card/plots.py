"""The plots: where lines, marks and labels stand. ``plot.svg.j2`` draws them with the page's colours and fonts."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from cdk_inference.common.escaping import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cdk_inference.model.card.entry import Array

Shape = Literal["reference", "shipped", "passed", "other", "failed"]

_MOST_POINTS = 600
_LOG_FROM = 12  # ratio of the largest to the smallest latency from which a linear axis hides the small ones
_SMALLEST, _LARGEST = 60.0, 900.0  # area of a mark, square pixels
_TOP, _RIGHT, _BOTTOM = 40, 14, 46  # margins, pixels
_LINE_HEIGHT = 15.0
_BASELINE = 3.5  # pixels from the bottom of a text's box
_SIZE = 12.0  # font size, pixels
_EM = 0.56  # mean width of a letter, wider than in the fonts of most systems


@dataclass(frozen=True)
class Canvas:
    """Where a plot will be shown: its size in CSS pixels, and whether there is room for names."""

    width: int
    height: int
    names: bool


WIDE = Canvas(960, 400, names=True)
NARROW = Canvas(350, 330, names=False)
SQUARE = Canvas(600, 560, names=True)


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
    """A rectangle in pixels; `top` is less than `bottom`, as in SVG."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Return whether the two share a place."""
        return not (
            self.right <= other.left or other.right <= self.left or self.bottom <= other.top or other.bottom <= self.top
        )

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Return the place in the rectangle that is nearest to another place."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)

    def distance(self, x: float, y: float) -> float:
        """Return how far a place is from the nearest edge."""
        return math.dist(self.nearest(x, y), (x, y))

    def within(self, other: Box) -> bool:
        """Return whether this is inside of the other."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Text:
    """A text; `x` is where it starts, ends or has its middle, as the anchor says, and `y` its baseline."""

    x: float
    y: float
    text: str
    role: str = "muted"
    anchor: Literal["start", "middle", "end"] = "start"


@dataclass(frozen=True)
class Line:
    """A line; the role decides its colour, width and dashes."""

    x1: float
    y1: float
    x2: float
    y2: float
    role: str


@dataclass(frozen=True)
class Mark:
    """The mark of a candidate; `radius` is half the extent of a circle of its area."""

    x: float
    y: float
    radius: float
    shape: Shape
    tip: str


@dataclass
class Drawing:
    """A plot, as its template takes it. The first parts are drawn below the others."""

    canvas: Canvas
    boxes: list[tuple[Box, str]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    dots: list[tuple[float, float]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


@dataclass(frozen=True)
class _Scale:
    """Places numbers between two pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int, *, whole: bool = False) -> list[float]:
        """Return at most this many round numbers; on a logarithmic scale 1, 2 and 5 of each decade."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
            return [value for value in found if self.low <= value <= self.high]
        power = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        for digit in (1, 2, 5, 10, 20):
            step = max(digit * power, 1) if whole else digit * power
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            if last - first < most:
                break
        return [number * step for number in range(first, last + 1)]


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
) -> Drawing:
    """Draw quality against latency (or size), with the areas of the marks in proportion to `Point.area`.

    A value far beyond the gate is drawn at the edge with an arrow, so that it does not squeeze the others.
    """
    area = _area(canvas, left=64 if canvas.names else 52)
    low, high = _quality_range(points, limit, higher_is_better=higher_is_better)
    # Up is better in every card.
    edges = (area.bottom, area.top) if higher_is_better else (area.top, area.bottom)
    vertical = _Scale(low, high, *edges)
    costs = [point.cost for point in points]
    if max(costs) / max(min(costs), 1e-12) > _LOG_FROM:
        horizontal = _Scale(min(costs) / 1.5, max(costs) * 1.5, area.left, area.right, log=True)
    else:
        horizontal = _Scale(0, max(costs) * 1.15, area.left, area.right)

    drawing = Drawing(canvas)
    _axes(
        drawing,
        area,
        [(horizontal(value), f"{value:g}") for value in horizontal.ticks(9 if canvas.names else 5)],
        [(vertical(value), show_quality(value)) for value in vertical.ticks(6)],
        cost_label,
        quality_label,
    )
    gate = vertical(limit)
    drawing.boxes.append((Box(area.left, gate, area.right, area.bottom), "beyond"))
    drawing.lines.append(Line(area.left, gate, area.right, gate, "gate"))
    largest = max(point.area for point in points)
    placed = []
    # Small ones stand on top of large ones, and the winner is always to be seen.
    for point in sorted(points, key=lambda p: (p.shape == "shipped", -p.area)):
        quality = min(max(point.quality, low), high)
        size = max(_SMALLEST, _LARGEST * (1 if canvas.names else 0.6) * point.area / largest)
        radius = math.sqrt(size) / 2
        mark = Mark(horizontal(point.cost), vertical(quality), radius, point.shape, point.tip)
        drawing.marks.append(mark)
        extent = radius * (1.4 if point.shape == "other" else 1) + (5 if point.shape == "shipped" else 0)
        placed.append(_Placed(point, mark.x, mark.y, extent, outside=quality != point.quality))
    _label(drawing, area, placed, gate, limit_label)
    return drawing


def histogram(values: Array, canvas: Canvas, *, label: str, mean: float, mean_label: str, unit: str) -> Drawing:
    """Draw how many samples have which value."""
    area = _area(canvas, left=44)
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:  # noqa: PLR2004  # all the same: a range of no width has no bins
        low, high = low - 5e-4, high + 5e-4
    bins = int(min(40 if canvas.names else 20, max(8, round(2 * math.sqrt(len(values))))))
    counts, _ = np.histogram(values, bins=bins, range=(low, high))
    width = (high - low) / bins
    horizontal = _Scale(low - width, high + width, area.left, area.right)
    vertical = _Scale(0, max(int(counts.max()), 1) * 1.05, area.bottom, area.top)
    drawing = Drawing(canvas)
    _axes(
        drawing,
        area,
        [(horizontal(value), f"{value:.6g}") for value in horizontal.ticks(7 if canvas.names else 4)],
        [(vertical(value), f"{value:g}") for value in vertical.ticks(4, whole=True)],
        label,
        unit,
    )
    drawing.boxes += [
        (
            Box(
                horizontal(low + (number + 0.05) * width),
                vertical(int(count)),
                horizontal(low + (number + 0.95) * width),
                area.bottom,
            ),
            "bar",
        )
        for number, count in enumerate(counts)
        if count
    ]
    place = horizontal(mean)
    drawing.lines.append(Line(place, area.top, place, area.bottom, "mean"))
    on_the_right = place > (area.left + area.right) / 2
    drawing.texts.append(
        Text(place + (-6 if on_the_right else 6), area.top - 6, mean_label, "ink", "end" if on_the_right else "start")
    )
    return drawing


def scatter(expected: Array, deployed: Array, canvas: Canvas, *, expected_label: str, deployed_label: str) -> Drawing:
    """Draw deployed against expected values, at most a few hundred of them, evenly picked."""
    area = _area(canvas, left=64 if canvas.names else 52)
    step = max(1, math.ceil(expected.size / _MOST_POINTS))
    x, y = (values.reshape(-1)[::step].astype(float) for values in (expected, deployed))
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    margin = (high - low) * 0.05 or 0.5 * max(1.0, abs(high))
    horizontal = _Scale(low - margin, high + margin, area.left, area.right)
    vertical = _Scale(low - margin, high + margin, area.bottom, area.top)
    ticks = horizontal.ticks(6 if canvas.names else 4)
    drawing = Drawing(canvas)
    _axes(
        drawing,
        area,
        [(horizontal(value), f"{value:.4g}") for value in ticks],
        [(vertical(value), f"{value:.4g}") for value in ticks],
        expected_label,
        deployed_label,
    )
    drawing.lines += [Line(horizontal(value), area.top, horizontal(value), area.bottom, "grid") for value in ticks]
    drawing.lines.append(Line(horizontal(low), vertical(low), horizontal(high), vertical(high), "equal"))
    drawing.dots = [(horizontal(a), vertical(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    return drawing


def _area(canvas: Canvas, *, left: float) -> Box:
    return Box(left, _TOP, canvas.width - _RIGHT, canvas.height - _BOTTOM)


def _axes(
    drawing: Drawing,
    area: Box,
    across: Sequence[tuple[float, str]],
    up: Sequence[tuple[float, str]],
    label: str,
    title: str,
) -> None:
    """Draw both axes: places with their labels, what stands below, and what stands above."""
    drawing.lines += [Line(area.left, place, area.right, place, "grid") for place, _ in up]
    drawing.lines.append(Line(area.left, area.bottom, area.right, area.bottom, "axis"))
    drawing.texts += [Text(area.left - 8, place + 4, text, anchor="end") for place, text in up]
    drawing.texts += [Text(place, area.bottom + 18, text, anchor="middle") for place, text in across]
    drawing.texts.append(Text((area.left + area.right) / 2, drawing.canvas.height - 8, label, anchor="middle"))
    drawing.texts.append(Text(area.left, area.top - 20, title))


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


def _width(text: str) -> float:
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else _EM for c in text) * _SIZE


@dataclass(frozen=True)
class _Placed:
    """A candidate's mark: where it is, how far it reaches, and whether its value is beyond the edge."""

    point: Point
    x: float
    y: float
    reach: float
    outside: bool


def _label(drawing: Drawing, area: Box, placed: Sequence[_Placed], gate: float, limit_label: str) -> None:
    """Write names, or numbers where names find no room, next to the marks, and none over another."""
    canvas = drawing.canvas
    inside = Box(2, area.top - 14, canvas.width - 2, area.bottom - 1)
    taken = [Box(p.x - p.reach, p.y - p.reach, p.x + p.reach, p.y + p.reach) for p in placed]
    taken.append(Box(area.left, gate - 1, area.right, gate + 1))

    width = _width(limit_label)
    corners = [
        Box(x, y, x + width, y + _LINE_HEIGHT)
        for x in (area.right - width, area.left + 4, (area.left + area.right - width) / 2)
        for y in (gate + 2, gate - _LINE_HEIGHT - 2)
    ]
    corner = next((c for c in corners if not any(c.overlaps(t) for t in taken)), corners[0])
    taken.append(corner)
    drawing.texts.append(Text(corner.left, corner.bottom - _BASELINE, limit_label, "fail"))

    # The winner and the reference choose first.
    order = {"shipped": 0, "reference": 1}
    centres = [(p.x, p.y) for p in placed]
    for mark in sorted(placed, key=lambda p: (order.get(p.point.shape, 2), p.point.number)):
        point, arrow = mark.point, " ↓" if mark.outside else ""
        number, name = f"{point.number}{arrow}", f"{clean(point.name, 44)}{arrow}"
        tries: list[tuple[str, Sequence[tuple[float, float]]]] = [(number, centres)]
        if canvas.names:
            tries.insert(0, (name, centres))
        if point.shape in order:  # in a crowd, with a line from the mark
            tries.insert(1, (tries[0][0], []))
        for text, others in tries:
            box = _free(mark, _width(text), taken, inside, others)
            if box is not None:
                break
        else:
            continue  # its number stands in the table, and its mark tells its name
        taken.append(box)
        near = box.nearest(mark.x, mark.y)
        distance = math.dist(near, (mark.x, mark.y))
        if distance > mark.reach + 9:
            share = (mark.reach + 1) / distance
            edge = (mark.x + (near[0] - mark.x) * share, mark.y + (near[1] - mark.y) * share)
            drawing.lines.append(Line(*edge, *near, "leader"))
        role = {"shipped": "strong", "reference": "ink"}.get(point.shape, "muted")
        drawing.texts.append(Text(box.left, box.bottom - _BASELINE, text, role))


def _free(
    mark: _Placed, width: float, taken: Sequence[Box], inside: Box, centres: Sequence[tuple[float, float]]
) -> Box | None:
    """Return the nearest free place for a text around a mark, which no other mark is closer to."""
    x, y, height = mark.x, mark.y, _LINE_HEIGHT
    for gap in (5, 11, 18, 27, 38, 52):
        reach = mark.reach + gap
        slant = reach * 0.75
        for left, top in (
            (x + reach, y - height / 2),
            (x - width / 2, y - reach - height + 3),
            (x - width / 2, y + reach - 3),
            (x - reach - width, y - height / 2),
            (x + slant, y - slant - height + 4),
            (x + slant, y + slant - 4),
            (x - slant - width, y - slant - height + 4),
            (x - slant - width, y + slant - 4),
        ):
            box = Box(left, top, left + width, top + height)
            if not box.within(inside) or any(box.overlaps(t) for t in taken):
                continue
            own = box.distance(x, y)
            if all(box.distance(*other) >= own for other in centres):
                return box
    return None
