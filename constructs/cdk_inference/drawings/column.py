"""Lays a graph out in one column, for a phone: boxes in their order, and arrows that skip some of them at the side."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from cdk_inference.drawings.layout import HEIGHT, MARGIN, Arrow, Box, Drawing, arrow, box_width, shown_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cdk_inference.drawings.graph import Edge, Graph

_GAP = 24.0
_LANE = 9.0  # pixels from one arrow at the side to the next
_WIDEST = 250.0


def draw_column(graph: Graph) -> Drawing:
    """Lay a graph out in one column.

    Arrows to the next box go straight down. All others run at the right, and those to one box share a line there. So a
    state that many others fall back to has one line.

    Parameters
    ----------
    graph
        The graph.
    """
    order = _in_order(graph)
    place = {name: number for number, name in enumerate(order)}
    nodes = {node.id: node for node in graph.nodes}
    texts = {name: shown_texts(nodes[name]) for name in order}
    width = min(_WIDEST, max((box_width(*each) for each in texts.values()), default=0.0))
    boxes = [
        Box(nodes[name], MARGIN, MARGIN + number * (HEIGHT + _GAP), width, HEIGHT, *texts[name])
        for number, name in enumerate(order)
    ]
    arrows, lines = _arrows(graph, place, boxes)
    right = MARGIN * 2 + width + (lines + 1) * _LANE if lines else MARGIN * 2 + width
    bottom = MARGIN * 2 + len(boxes) * (HEIGHT + _GAP) - _GAP if boxes else MARGIN * 2
    return Drawing(right, bottom, boxes, arrows)


def _in_order(graph: Graph) -> list[str]:
    """Return the boxes so that arrows go down where they can, and what follows each other stays together."""
    after: dict[str, list[str]] = defaultdict(list)
    waits: dict[str, int] = dict.fromkeys((node.id for node in graph.nodes), 0)
    for edge in dict.fromkeys((edge.source, edge.target) for edge in graph.edges if edge.source != edge.target):
        after[edge[0]].append(edge[1])
        waits[edge[1]] += 1
    ready = [name for name, count in waits.items() if not count][::-1]
    order: list[str] = []
    left = dict.fromkeys(waits)
    while left:
        # A loop has no beginning: the graph's own order says where it is entered.
        name = ready.pop() if ready else next(iter(left))
        del left[name]
        order.append(name)
        for follower in reversed(after[name]):
            waits[follower] -= 1
            if not waits[follower] and follower in left:
                ready.append(follower)
        ready = [each for each in ready if each in left]
    return order


def _arrows(graph: Graph, place: dict[str, int], boxes: Sequence[Box]) -> tuple[list[Arrow], int]:
    """Return the arrows, and how many lines run at the side."""
    straight, shared = [], defaultdict[tuple[str, bool], list[str]](list)
    for edge in graph.edges:
        if place[edge.target] == place[edge.source] + 1:
            straight.append(_down(edge, boxes[place[edge.source]], boxes[place[edge.target]]))
        else:
            shared[edge.target, edge.dashed].append(edge.source)
    spans = {
        key: (min(places), max(places))
        for key, sources in shared.items()
        for places in [[place[key[0]], *(place[source] for source in sources)]]
    }
    lanes = _lanes(spans)
    leaving: dict[str, int] = defaultdict(int)
    for key in sorted(lanes, key=lambda each: lanes[each]):
        straight += _at_the_side(key, [place[source] for source in shared[key]], lanes[key], place, boxes, leaving)
    return straight, max(lanes.values(), default=-1) + 1


def _down(edge: Edge, source: Box, target: Box) -> Arrow:
    x = source.x + min(source.width, target.width) / 2
    return arrow([(x, source.y + source.height), (x, target.y)], dashed=edge.dashed)


def _lanes(spans: dict[tuple[str, bool], tuple[int, int]]) -> dict[tuple[str, bool], int]:
    """Return the line of each span, such that no two of one line overlap; short ones are nearest to the boxes."""
    taken: list[list[tuple[int, int]]] = []
    found = {}
    for key, (first, last) in sorted(spans.items(), key=lambda item: (item[1][1] - item[1][0], item[1], item[0])):
        free = (
            number
            for number, others in enumerate(taken)
            if all(last < other[0] or other[1] < first for other in others)
        )
        number = next(free, len(taken))
        if number == len(taken):
            taken.append([])
        taken[number].append((first, last))
        found[key] = number
    return found


def _at_the_side(
    key: tuple[str, bool],
    sources: Sequence[int],
    lane: int,
    place: dict[str, int],
    boxes: Sequence[Box],
    leaving: dict[str, int],
) -> Iterator[Arrow]:
    """Yield one arrow from the farthest box, and for each other one the way to its line."""
    name, dashed = key
    target = boxes[place[name]]
    right = target.x + target.width
    line = right + (lane + 1) * _LANE
    entry = target.y + target.height * (0.3 if dashed else 0.16)
    farthest = max(sources, key=lambda number: abs(number - place[name]))
    for number in dict.fromkeys(sources):
        source = boxes[number]
        leaving[source.node.id] += 1
        y = source.y + source.height * min(0.3 + 0.13 * leaving[source.node.id], 0.92)
        if number == farthest:
            yield arrow([(right, y), (line, y), (line, entry), (right, entry)], dashed=dashed)
        else:
            yield arrow([(right, y), (line, y)], dashed=dashed, head=False)
