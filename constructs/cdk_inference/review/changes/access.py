"""Compares what the parts of two apps may do, by the verdicts of a policy simulator on each edge."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.review.access.verdicts import Access

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.review.access.verdicts import Verdict
    from cdk_inference.review.access.wiring import Edge
    from cdk_inference.review.template import Template


@dataclass(frozen=True)
class AccessChange:
    """Calls of one part on one resource whose verdict changes, or is not as it should be.

    Parameters
    ----------
    stack
        The path of the stack.
    who
        The path of the part; the service calls for it where it has no role.
    actions
        The calls.
    target
        The resource, as people know it.
    needed
        Whether the app is wired so that it does not work without them.
    lost
        Whether they are denied.
    before
        Whether they were allowed before; None if nobody knows.
    beyond
        The neighbours for which they are allowed, and were not before.
    """

    stack: str
    who: str
    actions: tuple[str, ...]
    target: str
    needed: bool
    lost: bool
    before: bool | None
    beyond: tuple[str, ...] = ()


@dataclass(frozen=True)
class AskedEdges:
    """The edges of an app that a simulator was asked about.

    Parameters
    ----------
    edges
        How many there are in the app.
    allowed, unknown
        How many of these are allowed, and of how many the template does not tell.
    changes
        The calls that are lost or wider.
    """

    edges: int = 0
    allowed: int = 0
    unknown: int = 0
    changes: tuple[AccessChange, ...] = ()


def compare(before: dict[str, Template], after: dict[str, Template]) -> AskedEdges:
    """Return the verdicts on the edges of the templates in the second app, and how they differ from the first."""
    edges = permitted = unknown = 0
    changes: list[AccessChange] = []
    for path, template in after.items():
        new = Access(template)
        old = Access(before[path]) if path in before else None
        verdicts = {edge: new.verdict(edge) for edge in new.edges}
        known = [verdict for verdict in verdicts.values() if verdict is not None]
        edges += len(known)
        permitted += sum(1 for verdict in known if verdict.allowed)
        unknown += sum(1 for verdict in known if verdict.allowed is None)
        changes += _grouped(path, _changes(old, new, verdicts))
    return AskedEdges(edges, permitted, unknown, tuple(changes))


@dataclass(frozen=True)
class _Found:
    """An edge to show."""

    edge: Edge
    needed: bool
    lost: bool
    before: bool | None
    beyond: tuple[str, ...]


def _changes(old: Access | None, new: Access, verdicts: dict[Edge, Verdict | None]) -> Iterator[_Found]:
    kept = {_place(edge) for edge, verdict in verdicts.items() if verdict is not None and verdict.allowed}
    for edge in dict.fromkeys([*verdicts, *(old.edges if old is not None else ())]):
        verdict = verdicts[edge] if edge in verdicts else new.verdict(edge)
        if verdict is None:
            continue  # the part or the resource is gone
        then = old.verdict(edge) if old is not None else None
        known = then.allowed if then is not None else None
        if verdict.allowed is False and (known is not False or then is None):
            # The same call elsewhere in the same resource, such as under another prefix, is likely to be what is meant.
            moved = edge not in verdicts and _place(edge) in kept
            needed = new.needs(edge) and not moved
            if (known or needed) and not (moved and "*" not in edge.resource):
                yield _Found(edge, needed, True, known, ())
        elif then is not None and known is not None and verdict.allowed:
            wider = tuple(each for each in verdict.beyond if each not in then.beyond)
            if wider:
                yield _Found(edge, new.needs(edge), False, known, wider)


def _place(edge: Edge) -> tuple[str, str, str]:
    """Return who makes which call on which resource, wherever in it."""
    known = edge.resource.startswith("${")
    end = "}" if known else "/" if ":s3:::" in edge.resource else None
    return edge.who, edge.action, edge.resource.partition(end)[0] if end else edge.resource


def _grouped(stack: str, found: Iterator[_Found]) -> list[AccessChange]:
    groups: dict[tuple[str, str, bool, bool, bool | None, tuple[str, ...]], dict[str, None]] = defaultdict(dict)
    for each in found:
        key = (each.edge.who, each.edge.resource, each.needed, each.lost, each.before, each.beyond)
        groups[key][each.edge.action] = None
    changes = [
        AccessChange(stack, who, tuple(sorted(actions)), target, needed, lost, before, beyond)
        for (who, target, needed, lost, before, beyond), actions in groups.items()
    ]
    return sorted(changes, key=lambda each: (not each.needed, not each.lost, each.who, each.target))
