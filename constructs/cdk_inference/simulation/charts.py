"""The charts of a simulation's page: where lines and labels stand. ``chart.svg.j2`` draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdk_inference.common.figures import figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TOP, _RIGHT, _BOTTOM, _LEFT = 16, 16, 44, 62  # margins, pixels
_KINDS = 4  # of lines that the page tells apart
_DIGITS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Canvas:
    """The size of a chart in CSS pixels."""

    width: int
    height: int


WIDE, NARROW = Canvas(1000, 300), Canvas(350, 250)


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Parameters
    ----------
    name
        For its legend.
    points
        Pairs of what is across and what is up.
    """

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: its place in pixels, and its label."""

    place: float
    label: str


@dataclass(frozen=True)
class DrawnLine:
    """A line in pixels: its path, the places of its points with their texts, and the number of its colour."""

    name: str
    path: str
    dots: tuple[tuple[float, float, str], ...]
    kind: int


@dataclass(frozen=True)
class Chart:
    """A chart, as its template takes it."""

    canvas: Canvas
    left: float
    top: float
    right: float
    bottom: float
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    lines: tuple[DrawnLine, ...]
    label: str
    limit: float | None = None


@dataclass(frozen=True)
class ChartPair:
    """A chart for a screen and one for a phone, with what both say.

    Parameters
    ----------
    title
        The meaning of the vertical axis.
    description
        The values in words, for people who do not see them.
    wide, narrow
        The charts.
    names
        The names of the lines, if there are several.
    """

    title: str
    description: str
    wide: Chart
    narrow: Chart
    names: tuple[str, ...] = field(default=())


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    label: str,
    show: Callable[[float], str],
    logarithmic: bool = True,
    limit: float | None = None,
    across: Callable[[float], str] = figure,
) -> ChartPair:
    """Draw lines.

    Parameters
    ----------
    title, label
        The meanings of the vertical and the horizontal axis.
    lines
        The lines; at most four.
    show, across
        Return a value as people read it: of what is up, and of what is across.
    logarithmic
        Whether what is across has a logarithmic axis.
    limit
        A value that is marked by a line across.
    """
    description = "; ".join(
        f"{line.name}: " + ", ".join(f"{show(y)} at {across(x)}" for x, y in _few(line.points)) for line in lines
    )
    wide, narrow = (
        _draw(lines[:_KINDS], canvas, label, show, across, logarithmic=logarithmic, limit=limit)
        for canvas in (WIDE, NARROW)
    )
    names = tuple(line.name for line in lines[:_KINDS]) if len(lines) > 1 else ()
    return ChartPair(title, f"{title}. {description}", wide, narrow, names)


def _draw(
    lines: Sequence[Line],
    canvas: Canvas,
    label: str,
    show: Callable[[float], str],
    across: Callable[[float], str],
    *,
    logarithmic: bool,
    limit: float | None,
) -> Chart:
    left, top, right, bottom = _LEFT, _TOP, canvas.width - _RIGHT, canvas.height - _BOTTOM
    every_x = [x for line in lines for x, _ in line.points]
    low, high = min(every_x), max(every_x)
    highest = max([y for line in lines for _, y in line.points] + ([limit] if limit is not None else [])) or 1.0
    up = _round_ticks(highest, 4)
    highest = max(highest, up[-1])

    def place_x(x: float) -> float:
        if high == low:
            return (left + right) / 2
        share = math.log(x / low) / math.log(high / low) if logarithmic else (x - low) / (high - low)
        return left + share * (right - left)

    def place_y(y: float) -> float:
        return bottom - y / highest * (bottom - top)

    most = 4 if canvas is NARROW else 9
    marks = _decades(low, high) if logarithmic else [low + tick for tick in _round_ticks(high - low, most)]
    drawn = []
    for kind, line in enumerate(lines):
        places = [(place_x(x), place_y(y)) for x, y in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dots = tuple(
            (px, py, f"{line.name}: {show(y)} at {across(x)}")
            for (px, py), (x, y) in zip(places, line.points, strict=True)
        )
        drawn.append(DrawnLine(line.name, path, dots if logarithmic else (), kind))
    return Chart(
        canvas,
        left,
        top,
        right,
        bottom,
        tuple(Tick(place_x(x), across(x)) for x in marks if low <= x <= high),
        tuple(Tick(place_y(y), show(y)) for y in up),
        tuple(drawn),
        label,
        None if limit is None else place_y(limit),
    )


def _round_ticks(highest: float, most: int) -> list[float]:
    """Return 0 and at most so many round numbers up to a value, and one beyond it if it is not round."""
    power = 10.0 ** math.floor(math.log10(highest / most))
    step = next(digit * power for digit in _DIGITS if digit * power * most >= highest * (1 - 1e-9))
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, last + 1)]


def _few(points: Sequence[tuple[float, float]], most: int = 8) -> Sequence[tuple[float, float]]:
    return points[:: max(1, math.ceil(len(points) / most))]
