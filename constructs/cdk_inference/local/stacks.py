"""Finds deployed stacks, and their resources by the role that our metadata gives them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cdk_inference.common.owners import Owners
from cdk_inference.local.aws import DEFAULT_ENV, Env
from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cdk_inference.errors import InferenceError

METADATA_KEY = "cdk-inference"
BOOTSTRAP_STACK = "CDKToolkit"
_NOT_THERE = "ValidationError"


@dataclass(frozen=True)
class Resource:
    """One deployed resource.

    Parameters
    ----------
    stack
        Name of its stack.
    logical_id
        Its name in the template.
    physical_id
        Its name in AWS.
    type
        CloudFormation type, such as ``"AWS::SQS::Queue"``.
    properties
        Its properties as in the template, references unresolved.
    metadata
        The facts that our constructs add: ``role``, ``pipeline`` and more; references, and names made of them, are
        resolved.
    env
        Its account and region.
    """

    stack: str
    logical_id: str
    physical_id: str
    type: str
    properties: dict[str, Any] = field(default_factory=dict, repr=False)
    metadata: dict[str, Any] = field(default_factory=dict)
    env: Env = DEFAULT_ENV

    @property
    def label(self) -> str:
        """The name that users know it by: pipeline and stage if it has both."""
        names = [self.metadata.get("pipeline"), self.metadata.get("stage")]
        return "/".join(map(str, names)) if all(names) else self.logical_id


class Stack:
    """One deployed stack.

    Parameters
    ----------
    cloudformation
        Client of CloudFormation.
    name
        Name of the stack.
    env
        Its account and region, those of the client.
    """

    def __init__(self, cloudformation: Any, name: str, env: Env = DEFAULT_ENV) -> None:  # noqa: ANN401
        self._cloudformation = cloudformation
        self.name = name
        self.env = env

    def template(self) -> dict[str, Any]:
        """Return the deployed template.

        Raises
        ------
        LocalError
            If there is no such stack.
        ClientError
            If CloudFormation refuses, such as credentials that have expired.
        """
        try:
            body = self._cloudformation.get_template(StackName=self.name)["TemplateBody"]
        except ClientError as error:
            if error.response["Error"]["Code"] != _NOT_THERE:  # such as credentials that have expired
                raise
            region = self._cloudformation.meta.region_name
            raise LocalError(
                f"stack must be deployed in {region}, got {self.name!r}, which is not; deploy it first, or name "
                "another Region or profile"
            ) from error
        try:
            return dict(json.loads(body) if isinstance(body, str) else body)
        except ValueError:
            from cdk_inference.local.templates import read_yaml  # noqa: PLC0415 - other extras come without pyyaml

            return read_yaml(body)

    def resources(
        self,
        *,
        role: str | None = None,
        type: str | None = None,
        pipeline: str | None = None,
    ) -> list[Resource]:
        """Return deployed resources.

        Parameters
        ----------
        role
            Only those with this role in our metadata, such as ``"inbox"``.
        type
            Only those of this CloudFormation type.
        pipeline
            Only those of this pipeline.

        Returns
        -------
        list of Resource
            In the template's order.
        """
        return matching(self._resources(), role=role, type=type, pipeline=pipeline)

    def _resources(self) -> list[Resource]:
        declared = self.template().get("Resources", {})
        described = self._cloudformation.describe_stack_resources(StackName=self.name)["StackResources"]
        physical = {item["LogicalResourceId"]: item.get("PhysicalResourceId", "") for item in described}
        resolved = partial(self._resolved, physical)
        return [
            Resource(
                stack=self.name,
                logical_id=logical_id,
                physical_id=physical[logical_id],
                type=resource["Type"],
                properties=resource.get("Properties", {}),
                metadata={
                    name: resolved(value) for name, value in resource.get("Metadata", {}).get(METADATA_KEY, {}).items()
                },
                env=self.env,
            )
            for logical_id, resource in declared.items()
            if logical_id in physical
        ]

    def _resolved(self, physical: Mapping[str, str], value: Any) -> Any:  # noqa: ANN401
        """Return a fact with what it refers to: in the stack, in the one around it, or in another one."""
        match value:
            case {"Ref": str(name), **others} if not others:
                return physical[name] if name in physical else self._parameters.get(name)
            case {"Fn::ImportValue": str(name), **others} if not others:
                return self._exports.get(name)
            case {"Fn::GetAtt": [str(name), "QueueName"]} if name in physical:
                return physical[name].rpartition("/")[2]  # of its URL
            case {"Fn::Join": [str(between), list(parts)]}:
                found = [self._resolved(physical, part) for part in parts]
                return between.join(found) if all(isinstance(part, str) for part in found) else value
        return value

    @cached_property
    def _parameters(self) -> dict[str, str]:
        [stack] = self._cloudformation.describe_stacks(StackName=self.name)["Stacks"]
        return {each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", ())}

    @cached_property
    def _exports(self) -> dict[str, str]:
        pages = self._cloudformation.get_paginator("list_exports").paginate()
        return {each["Name"]: each["Value"] for page in pages for each in page["Exports"]}

    def the_one(self, role: str, *, missing: str, error: type[InferenceError], **named: str | None) -> Resource:
        """Return the resource of a role by its name in our metadata; the name may be None if there is only one.

        Parameters
        ----------
        role
            Its role in our metadata.
        missing
            The rule and the fix of the message for a stack that has none, around what it got.
        error
            The class of the error.
        **named
            The name, by the fact that has it, such as ``log="Stack/Log"``.

        Raises
        ------
        error
            There is none, none of that name, or more than one to choose from.
        """
        ((fact, name),) = named.items()
        found = {str(resource.metadata[fact]): resource for resource in self.resources(role=role)}
        if not found:
            raise error(missing.format(f"got '{self.name}'"))
        if name is None and len(found) == 1:
            return next(iter(found.values()))
        if name not in found:
            got = "none; name one" if name is None else f"'{name}'"
            raise error(f"{fact} must be one of {', '.join(sorted(found))}, got {got}")
        return found[name]


class DeployedOwners:
    """Tells which pipeline deployed resources belong to.

    Parameters
    ----------
    resources
        All of them, of whatever account and region.
    """

    def __init__(self, resources: Iterable[Resource]) -> None:
        facts: dict[Env, list[dict[str, Any]]] = {}
        for each in resources:
            facts.setdefault(each.env, []).append(each.metadata)
        self._of = {env: Owners(found) for env, found in facts.items()}

    def way(self, resource: Resource) -> list[str]:
        """Return the paths from a resource to its pipeline; see `Owners.way`."""
        return self._of[resource.env].way(resource.metadata)

    def pipeline(self, resource: Resource) -> str | None:
        """Return the path of the pipeline; None if the resource belongs to none."""
        return self._of[resource.env].pipeline(resource.metadata)


def matching(
    resources: Iterable[Resource], *, role: str | None = None, type: str | None = None, pipeline: str | None = None
) -> list[Resource]:
    """Return those of the resources that match all criteria, which are those of ``Stack.resources``."""
    return [
        resource
        for resource in resources
        if (role is None or resource.metadata.get("role") == role)
        and (type is None or resource.type == type)
        and (pipeline is None or resource.metadata.get("pipeline") == pipeline)
    ]


def deployed(cloudformation: Any) -> dict[str, str]:  # noqa: ANN401
    """Return the names of the app's deployed stacks, each with a mark that changes when the stack does.

    Parameters
    ----------
    cloudformation
        Client of CloudFormation.

    Returns
    -------
    dict
        Marks by stack name. The bootstrap stack, and stacks being created or deleted, are not in it.
    """
    pages = cloudformation.get_paginator("describe_stacks").paginate()
    return {
        stack["StackName"]: f"{stack['StackId']} {stack.get('LastUpdatedTime') or stack.get('CreationTime')}"
        for page in pages
        for stack in page["Stacks"]
        if stack["StackName"] != BOOTSTRAP_STACK
        and stack["StackStatus"].endswith("_COMPLETE")
        and not stack["StackStatus"].startswith(("DELETE", "ROLLBACK"))
    }
