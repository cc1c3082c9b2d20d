"""Lays graphs out, and writes them as SVG and as Mermaid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import graphlay

from cdk_inference.common.escaping import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cdk_inference.drawings.graph import Graph, Node

_CHARACTER = 7.4  # pixels of an average character at 13 pixels
_SMALL = 6.2  # the same at 11 pixels
_LONGEST = 30  # characters of a line; the title of the box has the whole text
_PADDING = 14
HEIGHT = 46
"""Height of a box, in pixels."""
MARGIN = 8
"""Around a drawing, in pixels."""
_LEGEND = {"new": "new", "changed": "changed", "replaced": "replaced"}


@dataclass(frozen=True)
class Box:
    """A box in pixels, with what it shows."""

    node: Node
    x: float
    y: float
    width: float
    height: float
    title: str
    subtitle: str


@dataclass(frozen=True)
class Arrow:
    """An arrow: its path, its head unless it only joins another one, and whether it is dashed."""

    path: str
    head: str
    dashed: bool


@dataclass(frozen=True)
class Drawing:
    """A drawing in pixels."""

    width: float
    height: float
    boxes: list[Box]
    arrows: list[Arrow]


def draw(graph: Graph, *, downwards: bool) -> Drawing:
    """Lay a graph out.

    Parameters
    ----------
    graph
        The graph.
    downwards
        Whether arrows go down, as a phone has room for, instead of to the right.
    """
    request = graphlay.Graph()
    texts = {node.id: shown_texts(node) for node in graph.nodes}
    for node in graph.nodes:
        request.node(node.id, width=box_width(*texts[node.id]), height=HEIGHT)
    for edge in graph.edges:
        request.edge(edge.source, edge.target, weight=0.3 if edge.dashed else 1.0)
    options = {
        "direction": "topbottom" if downwards else "leftright",
        "spacing": {"layer_gap": 34.0, "node_gap": 22.0, "isolated_gap": 22.0},
    }
    found = graphlay.layout(request, options=options)
    least, most = found.bounds["min"], found.bounds["max"]
    left, top = least["x"] - MARGIN, least["y"] - MARGIN
    boxes = [
        Box(
            node,
            placed["center"]["x"] - placed["size"]["width"] / 2 - left,
            placed["center"]["y"] - placed["size"]["height"] / 2 - top,
            placed["size"]["width"],
            placed["size"]["height"],
            *texts[node.id],
        )
        for node, placed in zip(graph.nodes, found.nodes, strict=True)
    ]
    arrows = [
        arrow([(point["x"] - left, point["y"] - top) for point in routed["points"]], dashed=edge.dashed)
        for edge, routed in zip(graph.edges, found.edges, strict=True)
        if len(routed["points"]) > 1
    ]
    return Drawing(most["x"] - left + MARGIN, most["y"] - top + MARGIN, boxes, arrows)


def shown_texts(node: Node) -> tuple[str, str]:
    """Return the title and the subtitle of a box, shortened."""
    return _cut(node.title), _cut(_subtitle(node))


def box_width(title: str, subtitle: str) -> float:
    """Return the width of a box with these texts, in pixels."""
    return max(len(title) * _CHARACTER, len(subtitle) * _SMALL, 80) + 2 * _PADDING


def _subtitle(node: Node) -> str:
    return f"{node.subtitle} · {_LEGEND[node.status]}" if node.status else node.subtitle


def _cut(text: str) -> str:
    text = clean(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-(_LONGEST // 2 - 1) :]}"


_ROUND = 7.0  # radius of a corner, in pixels
_HEAD = 7.0


def arrow(points: Sequence[tuple[float, float]], *, dashed: bool, head: bool = True) -> Arrow:
    """Return an arrow along some points, with rounded corners.

    Parameters
    ----------
    points
        At least two points, in pixels.
    dashed
        Whether it is dashed.
    head
        Whether it has a head.
    """
    if not head:
        return Arrow(" ".join(_rounded(points)), "", dashed)
    (ax, ay), (bx, by) = points[-2], points[-1]
    length = math.hypot(bx - ax, by - ay) or 1.0
    ux, uy = (bx - ax) / length, (by - ay) / length
    base = (bx - ux * _HEAD, by - uy * _HEAD)
    wing = _HEAD / 2
    corners = [
        (bx, by),
        (base[0] - uy * wing, base[1] + ux * wing),
        (base[0] + uy * wing, base[1] - ux * wing),
    ]
    line = [*points[:-1], base]
    return Arrow(" ".join(_rounded(line)), " ".join(f"{_pixel(x)},{_pixel(y)}" for x, y in corners), dashed)


def _rounded(points: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Yield the commands of a path whose corners are rounded."""
    (x, y) = points[0]
    yield f"M{_pixel(x)} {_pixel(y)}"
    for (ax, ay), (bx, by), (cx, cy) in zip(points, points[1:], points[2:], strict=False):
        before, after = math.hypot(bx - ax, by - ay), math.hypot(cx - bx, cy - by)
        radius = min(_ROUND, before / 2, after / 2)
        if radius > 0:
            sx, sy = bx - (bx - ax) / before * radius, by - (by - ay) / before * radius
            ex, ey = bx + (cx - bx) / after * radius, by + (cy - by) / after * radius
            yield f"L{_pixel(sx)} {_pixel(sy)}Q{_pixel(bx)} {_pixel(by)} {_pixel(ex)} {_pixel(ey)}"
    (x, y) = points[-1]
    yield f"L{_pixel(x)} {_pixel(y)}"


def _pixel(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


_MERMAID_SHAPES = {"decision": ("{", "}"), "store": ("[(", ")]"), "end": ("([", "])"), "front": ("([", "])")}
_MERMAID_CLASSES = {
    "new": "stroke:#1a7f37,stroke-width:3px",
    "changed": "stroke:#9a6700,stroke-width:3px",
    "replaced": "stroke:#cf222e,stroke-width:3px",
}


def mermaid(graph: Graph) -> str:
    """Return a graph for GitHub's Mermaid; its texts are entities, which no text can leave."""
    numbers = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for node in graph.nodes:
        before, after = _MERMAID_SHAPES.get(node.kind, ("[", "]"))
        text = f'"{_entities(_cut(node.title))}<br/><small>{_entities(_subtitle(node))}</small>"'
        lines.append(f"  {numbers[node.id]}{before}{text}{after}")
    for edge in graph.edges:
        arrow = "-.->" if edge.dashed else "-->"
        lines.append(f"  {numbers[edge.source]} {arrow} {numbers[edge.target]}")
    for status, style in _MERMAID_CLASSES.items():
        of = [numbers[node.id] for node in graph.nodes if node.status == status]
        if of:
            lines += [f"  classDef {status} {style}", f"  class {','.join(of)} {status}"]
    return "\n".join(lines)


def _entities(text: str) -> str:
    return "".join(char if char.isalnum() or char in " ·./-" else f"#{ord(char)};" for char in clean(text))
