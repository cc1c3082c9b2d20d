"""A template, and the resources in it, as a review needs them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cdk_inference.common.json_values import mapping

METADATA_KEY = "cdk-inference"
"""As `cdk_inference.common.metadata` has it, whose module imports CDK."""

_PATH_KEY = "aws:cdk:path"
_LAST = re.compile(r"/(?:Resource|Default)$")
_SUBSTITUTED = re.compile(r"\$\{([!\w.:]+)\}")


@dataclass(frozen=True)
class Resource:
    """A resource of a template.

    Parameters
    ----------
    logical_id
        Its name in the template.
    body
        Its part of the template.
    stack
        The path of the stack's construct, which paths are shown without.
    """

    logical_id: str
    body: Mapping[str, Any] = field(repr=False)
    stack: str

    @property
    def type(self) -> str:
        """The type, such as ``AWS::SQS::Queue``."""
        return str(self.body["Type"])

    @property
    def properties(self) -> Mapping[str, Any]:
        """The properties."""
        return mapping(self.body.get("Properties"))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of CDK and of this library."""
        return mapping(self.body.get("Metadata"))

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts that this library wrote: its role, its pipeline, and more."""
        return mapping(self.metadata.get(METADATA_KEY))

    @property
    def role(self) -> str:
        """The role in its pipeline; ``""`` if this library does not say."""
        return str(self.facts.get("role", ""))

    @property
    def full_path(self) -> str:
        """The path of its construct, without the ends that CDK adds; the logical id if there is none."""
        return _LAST.sub("", str(self.metadata.get(_PATH_KEY, self.logical_id)))

    @property
    def path(self) -> str:
        """The same without the path of the stack."""
        return self.full_path.removeprefix(f"{self.stack}/")


@dataclass(frozen=True)
class Template:
    """A template of a stack, or of a stack that is nested in one.

    Parameters
    ----------
    stack_name
        The stack's name in CloudFormation; for a nested stack, that of the outer one.
    path
        The path of the stack's construct, by which the templates of two assemblies belong together.
    body
        The template.
    region, account
        The Region and the account, if the assembly knows them.
    nested
        Whether it is that of a nested stack.
    """

    stack_name: str
    path: str
    body: Mapping[str, Any] = field(repr=False)
    region: str | None = None
    nested: bool = False
    account: str | None = None

    @cached_property
    def resources(self) -> dict[str, Resource]:
        """The resources by logical id; loops (Fn::ForEach) are left out."""
        found = mapping(self.body.get("Resources"))
        return {
            name: Resource(name, body, self.path)
            for name, body in found.items()
            if isinstance(body, Mapping) and isinstance(body.get("Type"), str)
        }

    def of_type(self, *types: str) -> list[Resource]:
        """Return the resources of some types."""
        return [resource for resource in self.resources.values() if resource.type in types]

    def name(self, logical_id: str) -> str:
        """Return the path of a resource, or its logical id if the template does not have it."""
        found = self.resources.get(logical_id)
        return found.path if found is not None else logical_id

    def text(self, value: object) -> str:
        """Return a value of the template as people read it: references are paths in ``${…}``."""
        match value:
            case str() | int() | float():
                return str(value)
            case {"Ref": str(name)}:
                return "${" + self.name(name) + "}"
            case {"Fn::GetAtt": [str(name), str(attribute)]}:
                attribute = "" if attribute == "Arn" else f".{attribute}"
                return "${" + self.name(name) + attribute + "}"
            case {"Fn::Join": [str(by), [*parts]]}:
                return by.join(map(self.text, parts))
            case {"Fn::Sub": str() | [str(), {}] as given}:
                return self._substituted(given, str)
        return json.dumps(value, sort_keys=True)

    def _substituted(self, given: str | list[Any], show: Callable[[str], str]) -> str:
        """Return the text of ``Fn::Sub`` with its references as `text` has them, shown in some way."""
        text, variables = (given, {}) if isinstance(given, str) else given

        def named(found: re.Match[str]) -> str:
            name: str = found[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            logical_id, dot, attribute = name.partition(".")
            reference = {"Fn::GetAtt": [logical_id, attribute]} if dot else {"Ref": logical_id}
            return show(self.text(variables.get(name, reference)))

        return _SUBSTITUTED.sub(named, text)

    def parsed(self, value: object, substitutions: Mapping[str, str] | None = None) -> Mapping[str, Any] | None:
        """Return the JSON object that a value is or that its text holds; None if it is anything else.

        Parameters
        ----------
        value
            A text, or a function such as ``Fn::Join`` that makes one. References stand within strings of the JSON
            text, where they become paths in ``${…}``.
        substitutions
            Further references by name: what ``${name}`` stands for.
        """
        more = substitutions or {}

        def substituted(found: re.Match[str]) -> str:
            return _quotable(more[found[1]]) if found[1] in more else found[0]

        match value:
            case {"Fn::Join": [str(by), [*parts]]}:
                text = by.join(part if isinstance(part, str) else _quotable(self.text(part)) for part in parts)
            case {"Fn::Sub": str() | [str(), {}] as given}:
                text = self._substituted(given, _quotable)
            case str():
                text = value
            case Mapping() if not more:
                return value
            case Mapping():
                text = json.dumps(value)
            case _:
                return None
        if not text.lstrip().startswith("{"):
            return None
        try:
            found = json.loads(_SUBSTITUTED.sub(substituted, text))
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, Mapping) else None


def _quotable(text: str) -> str:
    return json.dumps(text)[1:-1]


def references(value: object) -> Iterator[str]:
    """Yield the logical ids that a value refers to, however deep."""
    if isinstance(value, Mapping):
        match value:
            case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), *_]}:
                yield name
            case {"Fn::Sub": str(text)} | {"Fn::Sub": [str(text), _]}:
                yield from (found.partition(".")[0] for found in re.findall(r"\$\{([A-Za-z0-9.]+)\}", text))
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from references(each)
