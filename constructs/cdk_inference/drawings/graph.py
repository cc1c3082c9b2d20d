"""The parts of a drawing: boxes, and arrows between them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A box.

    Parameters
    ----------
    id
        Unique in its graph.
    title, subtitle
        Its texts.
    kind
        How it is drawn: ``front``, ``message``, ``flow``, ``compute``, ``store``, ``decision``, ``end``, ``state`` or
        ``other``.
    status
        ``new``, ``changed``, ``replaced`` or nothing.
    """

    id: str
    title: str
    subtitle: str
    kind: str
    status: str = ""


@dataclass(frozen=True)
class Edge:
    """An arrow between two boxes; a dashed one is taken if something fails."""

    source: str
    target: str
    dashed: bool = False


@dataclass(frozen=True)
class Graph:
    """A drawing's content.

    Parameters
    ----------
    title
        The name of the drawing.
    nodes, edges
        Its boxes and arrows.
    """

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    @property
    def description(self) -> str:
        """The graph as text, for those who cannot see it."""
        names = {node.id: node.title for node in self.nodes}
        ways = [f"{names[edge.source]} to {names[edge.target]}" for edge in self.edges]
        return f"{self.title}: {'; '.join(ways)}."
