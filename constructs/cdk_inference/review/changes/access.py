"""Compares what the parts of two apps may do, by the verdicts of a policy simulator on each edge."""

from __future__ import annotations

from collections import Counter, defaultdict
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
    moves = _moves(old, verdicts) if old is not None else {}
    for edge in dict.fromkeys([*verdicts, *(old.edges if old is not None else ())]):
        verdict = verdicts[edge] if edge in verdicts else new.verdict(edge)
        if verdict is None:
            continue  # the part or the resource is gone
        then = old.verdict(edge) if old is not None else None
        known = then.allowed if then is not None else None
        if verdict.allowed is False and (known is not False or then is None):
            needed = new.needs(edge) and edge not in moves
            if (known or needed) and not moves.get(edge):
                yield _Found(edge, needed, True, known, ())
        elif then is not None and known is not None and verdict.allowed:
            wider = tuple(each for each in verdict.beyond if each not in then.beyond)
            if wider:
                yield _Found(edge, new.needs(edge), False, known, wider)


def _moves(old: Access, verdicts: dict[Edge, Verdict | None]) -> dict[Edge, bool]:
    """Return the calls on objects that moved within a bucket, each with whether another object took its object's place.

    A call moved if the same call elsewhere in the bucket is new. A permission that was there before replaces nothing.
    """
    before = set(old.edges)
    gone = [edge for edge in old.edges if edge not in verdicts]
    new = [edge for edge, each in verdicts.items() if edge not in before and each is not None and each.allowed]
    places = {_place(edge) for edge in new} - {None}
    # A model has another key whenever it changes. But with fewer new keys than old ones, one of these is cut off.
    keys_gone = Counter(_place(edge) for edge in gone if _is_key(edge))
    keys_new = Counter(_place(edge) for edge in new if _is_key(edge) and not _was_allowed(old, edge))
    return {
        edge: _is_key(edge) and keys_gone[place] <= keys_new[place]
        for edge in gone
        if (place := _place(edge)) is not None and place in places
    }


def _place(edge: Edge) -> tuple[str, str, str, tuple[tuple[str, str], ...]] | None:
    """Return who makes which call on a bucket's objects, wherever in it; None for a call on anything else."""
    bucket, _, key = edge.resource.partition("}/" if edge.resource.startswith("${") else "/")
    return (edge.who, edge.action, bucket, edge.context) if edge.action.startswith("s3:") and key else None


def _is_key(edge: Edge) -> bool:
    return "*" not in edge.resource


def _was_allowed(old: Access, edge: Edge) -> bool:
    then = old.verdict(edge)
    return then is not None and bool(then.allowed)


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
