"""Checks of the finished templates: no escape hatch goes past them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsii
from aws_cdk import (
    IPolicyValidationContext,
    IPolicyValidationPlugin,
    PolicyValidationPluginReport,
    PolicyViolatingResource,
    PolicyViolation,
    Stage,
    Validations,
)
from constructs import Construct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from constructs import IConstruct

Violation = tuple[str, str, str, str]
"""Logical id, property, problem and fix."""

_MODULE = "cdk-inference"


def check_templates(
    scope: IConstruct, rule: str, violations_of: Callable[[Mapping[str, Any]], Iterator[Violation]]
) -> None:
    """Have the templates of the app, or of the stage, that a construct is in checked when they are synthesized.

    Parameters
    ----------
    scope
        The construct.
    rule
        Name of the rule in the report; the same one is checked once.
    violations_of
        Yields what cannot work in a template.
    """
    stage = Stage.of(scope)
    marker = f"{_MODULE}-{rule}-checks"
    if stage is not None and stage.node.try_find_child(marker) is None:
        Validations.of(stage).add_plugins(TemplateChecks(rule, violations_of))
        Construct(stage, marker)  # so that they are not added again


@jsii.implements(IPolicyValidationPlugin)
class TemplateChecks:
    """The validation plugin.

    Parameters
    ----------
    rule, violations_of
        As those of `check_templates`.
    """

    def __init__(self, rule: str, violations_of: Callable[[Mapping[str, Any]], Iterator[Violation]]) -> None:
        self._rule = rule
        self._violations_of = violations_of

    @property
    def name(self) -> str:
        """Name in the report."""
        return _MODULE

    @property
    def version(self) -> str:
        """Version in the report."""
        return "1.0.0"

    @property
    def rule_ids(self) -> list[str]:
        """Names of the rules."""
        return [self._rule]

    def validate(self, context: IPolicyValidationContext) -> PolicyValidationPluginReport:
        """Check every template."""
        violations = [
            PolicyViolation(
                rule_name=self._rule,
                description=f"{logical_id}: {problem}",
                fix=fix,
                violating_resources=[
                    PolicyViolatingResource(
                        resource_logical_id=logical_id, template_path=str(path), locations=[f"Properties/{location}"]
                    )
                ],
            )
            for path in _templates(context.template_paths)
            for logical_id, location, problem, fix in self._violations_of(json.loads(path.read_text(encoding="utf-8")))
        ]
        return PolicyValidationPluginReport(success=not violations, violations=violations)


def _templates(paths: Iterable[str]) -> Iterator[Path]:
    """Yield the templates of the stacks, and of the stacks nested in them, which are assets to CDK."""
    for path in map(Path, paths):
        yield path
        assets = path.with_name(path.name.replace(".template.json", ".assets.json"))
        files = json.loads(assets.read_text(encoding="utf-8"))["files"] if assets.is_file() else {}
        for asset in files.values():
            source = asset["source"].get("path", "")
            if source.endswith(".nested.template.json"):
                yield path.with_name(source)


def resources_of(template: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the resources by logical id; a loop (Fn::ForEach) is left out, its resources do not exist yet."""
    return {
        name: resource
        for name, resource in template.get("Resources", {}).items()
        if isinstance(resource, dict) and "Type" in resource
    }


def referenced(value: Any) -> str | None:  # noqa: ANN401 - a CloudFormation value
    """Return the logical id that a value refers to, or ``None``."""
    match value:
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), _]}:
            return name
    return None
