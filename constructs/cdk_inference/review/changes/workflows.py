"""Reads the definitions of state machines, and compares their states."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.review.template import listed, mapping, references

if TYPE_CHECKING:
    from cdk_inference.review.template import Resource, Template

TYPE = "AWS::StepFunctions::StateMachine"

_SUBSTITUTED = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class State:
    """A state of a workflow.

    Parameters
    ----------
    name
        Its name.
    kind
        The type, such as ``Task``.
    parent
        The Map or Parallel state that it is in, or ``""``.
    calls
        The logical ids of what it calls.
    """

    name: str
    kind: str
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


@dataclass(frozen=True)
class WorkflowChange:
    """How a state machine changes: the names of its states.

    Parameters
    ----------
    stack, path
        The paths of the stack and of the construct.
    added, removed, changed
        The states.
    """

    stack: str
    path: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def workflows(template: Template) -> dict[str, Workflow]:
    """Return the state machines of a template by path; those whose definition is not in it are left out."""
    found = (_workflow(template, resource) for resource in template.of_type(TYPE))
    return {workflow.path: workflow for workflow in found if workflow is not None}


def compare(before: Template, after: Template) -> list[WorkflowChange]:
    """Return the state machines in both templates that have other states."""
    old, changes = workflows(before), []
    for path, new in workflows(after).items():
        if path not in old or old[path].bodies == new.bodies:
            continue
        one, two = old[path].bodies, new.bodies
        changes.append(
            WorkflowChange(
                after.path,
                path,
                added=tuple(name for name in two if name not in one),
                removed=tuple(name for name in one if name not in two),
                changed=tuple(name for name in two if name in one and one[name] != two[name]),
            )
        )
    return changes


def _workflow(template: Template, resource: Resource) -> Workflow | None:
    definition = _definition(template, resource)
    if definition is None or not isinstance(definition.get("StartAt"), str):
        return None
    states: dict[str, State] = {}
    bodies: dict[str, str] = {}
    transitions: list[Transition] = []
    by_path = {template.resources[name].path: name for name in template.resources}
    for name, body, parent in _states(definition, ""):
        own = {key: value for key, value in body.items() if key not in ("Branches", "ItemProcessor", "Iterator")}
        called = [found for found in re.findall(r"\$\{([^}]+)\}", json.dumps(own)) if found in by_path]
        called_ids = [*(by_path[found] for found in called), *references(own)]
        states[name] = State(name, str(body.get("Type", "")), parent, tuple(dict.fromkeys(called_ids)))
        bodies[name] = json.dumps(own, sort_keys=True)
        transitions += _transitions(name, body)
    return Workflow(resource.path, definition["StartAt"], states, tuple(transitions), bodies)


def _definition(template: Template, resource: Resource) -> Mapping[str, Any] | None:
    properties = resource.properties
    given = properties.get("Definition", properties.get("DefinitionString"))
    substitutions = mapping(properties.get("DefinitionSubstitutions"))

    def substituted(found: re.Match[str]) -> str:
        name = found[1]
        return _quotable(template.text(substitutions[name])) if name in substitutions else found[0]

    match given:
        case {"StartAt": _}:
            text = json.dumps(given)
        case {"Fn::Join": [str(by), [*parts]]}:
            # References stand within strings of the JSON text.
            text = by.join(part if isinstance(part, str) else _quotable(template.text(part)) for part in parts)
        case _:
            text = template.text(given)
    try:
        return mapping(json.loads(_SUBSTITUTED.sub(substituted, text)))
    except (ValueError, RecursionError):
        return None


def _quotable(text: str) -> str:
    return json.dumps(text)[1:-1]


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
