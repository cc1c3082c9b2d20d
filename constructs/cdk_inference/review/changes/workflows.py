"""Reads the definitions of state machines, and compares their states."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import mapping
from cdk_inference.drawings.workflows import read
from cdk_inference.review.template import references

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.drawings.workflows import Workflow
    from cdk_inference.review.template import Resource, Template

TYPE = "AWS::StepFunctions::StateMachine"


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
    by_path = {template.resources[name].path: name for name in template.resources}

    def calls(text: str, own: Mapping[str, Any]) -> list[str]:
        called = [found for found in re.findall(r"\$\{([^}]+)\}", text) if found in by_path]
        return [*(by_path[found] for found in called), *references(own)]

    return read(resource.path, definition, calls)


def _definition(template: Template, resource: Resource) -> Mapping[str, Any] | None:
    properties = resource.properties
    substitutions = mapping(properties.get("DefinitionSubstitutions"))
    return template.parsed(
        properties.get("Definition", properties.get("DefinitionString")),
        {name: template.text(value) for name, value in substitutions.items()},
    )
