"""Reads the definitions of state machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import listed, mapping
from cdk_inference.drawings.graph import Edge, Graph, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_KINDS = {
    "Choice": "decision",
    "Fail": "end",
    "Map": "flow",
    "Parallel": "flow",
    "Succeed": "end",
    "Task": "compute",
}
_INNER = ("Branches", "ItemProcessor", "Iterator")


@dataclass(frozen=True)
class State:
    """A state of a workflow.

    Parameters
    ----------
    name
        Its name.
    kind
        The type, such as ``Task``.
    call
        The call of a task, such as ``lambda:invoke``; otherwise ``""``.
    parent
        The Map or Parallel state that it is in, or ``""``.
    calls
        The logical ids of what it calls.
    """

    name: str
    kind: str
    call: str
    parent: str
    calls: tuple[str, ...]


@dataclass(frozen=True)
class Transition:
    """A way from one state to another.

    Parameters
    ----------
    source, target
        The names of the states.
    kind
        ``next``, ``choice``, ``default`` or ``catch``.
    """

    source: str
    target: str
    kind: str


@dataclass(frozen=True)
class Workflow:
    """A state machine.

    Parameters
    ----------
    path
        The path of the construct.
    start
        The first state.
    states
        By name, in the order of the definition.
    transitions
        Between states of the same level.
    bodies
        The definitions of the states by name, without the states in them.
    """

    path: str
    start: str
    states: dict[str, State]
    transitions: tuple[Transition, ...]
    bodies: dict[str, str]

    def levels(self, statuses: Mapping[str, str] | None = None) -> list[Graph]:
        """Return the graph of the outer states, and one for each Map or Parallel state.

        Parameters
        ----------
        statuses
            The statuses of boxes by the names of states. Default: none.
        """
        known = statuses or {}
        graphs = []
        for parent in dict.fromkeys(state.parent for state in self.states.values()):
            nodes = tuple(
                Node(name, name, state.call or state.kind, _KINDS.get(state.kind, "state"), known.get(name, ""))
                for name, state in self.states.items()
                if state.parent == parent
            )
            inside = {node.id for node in nodes}
            edges = [Edge(each.source, each.target, each.kind == "catch") for each in self.transitions]
            solid = {(edge.source, edge.target) for edge in edges if not edge.dashed}
            kept = dict.fromkeys(
                edge
                for edge in edges
                if edge.source in inside
                and edge.target in inside
                and not (edge.dashed and (edge.source, edge.target) in solid)
            )
            graphs.append(Graph(f"{self.path}, inside of {parent}" if parent else self.path, nodes, tuple(kept)))
        return graphs


def read(
    path: str,
    definition: Mapping[str, Any],
    calls: Callable[[str, Mapping[str, Any]], Sequence[str]] | None = None,
) -> Workflow:
    """Read a state machine.

    Parameters
    ----------
    path
        The path or name that people know it by.
    definition
        Its definition, with ``StartAt``.
    calls
        Returns what a state calls, from its JSON text and its fields without the states in it. Default: nothing.
    """
    states: dict[str, State] = {}
    bodies: dict[str, str] = {}
    transitions: list[Transition] = []
    for name, body, parent in _states(definition, ""):
        own = {key: value for key, value in body.items() if key not in _INNER}
        called = calls(json.dumps(own), own) if calls is not None else ()
        states[name] = State(name, str(body.get("Type", "")), _call(body), parent, tuple(dict.fromkeys(called)))
        bodies[name] = json.dumps(own, sort_keys=True)
        transitions += _transitions(name, body)
    return Workflow(path, str(definition["StartAt"]), states, tuple(transitions), bodies)


def _call(body: Mapping[str, Any]) -> str:
    resource = body.get("Resource")
    return resource.rpartition(":states:::")[2] if isinstance(resource, str) and ":states:::" in resource else ""


def _states(machine: Mapping[str, Any], parent: str) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    for name, body in mapping(machine.get("States")).items():
        if not isinstance(body, Mapping):
            continue
        yield name, body, parent
        for key in ("ItemProcessor", "Iterator"):
            yield from _states(mapping(body.get(key)), name)
        for branch in listed(body.get("Branches")):
            yield from _states(mapping(branch), name)


def _transitions(name: str, body: Mapping[str, Any]) -> Iterator[Transition]:
    if isinstance(body.get("Next"), str):
        yield Transition(name, body["Next"], "next")
    for kind, key in (("choice", "Choices"), ("catch", "Catch")):
        for each in listed(body.get(key)):
            if isinstance(mapping(each).get("Next"), str):
                yield Transition(name, each["Next"], kind)
    if isinstance(body.get("Default"), str):
        yield Transition(name, body["Default"], "default")
