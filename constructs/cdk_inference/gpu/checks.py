"""What a function with a GPU must be, checked in the finished template: no escape hatch goes past it."""

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

from cdk_inference.managed_capacity import LEAST_MEMORY, MOST_MEMORY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from constructs import IConstruct

ACCELERATOR_MEMORY = (3, 6, 12, 16, 24, 48)
"""GiB of a GPU that an environment can have."""

_ID = "cdk-inference-gpu-checks"
_DEFAULT_MEMORY = 128


def check_templates(scope: IConstruct) -> None:
    """Have the templates of the app, or of the stage, that a construct is in checked when they are synthesized."""
    stage = Stage.of(scope)
    if stage is not None and stage.node.try_find_child(_ID) is None:
        Validations.of(stage).add_plugins(GpuChecks())
        Construct(stage, _ID)  # so that they are not added again


@jsii.implements(IPolicyValidationPlugin)
class GpuChecks:
    """The validation plugin."""

    @property
    def name(self) -> str:
        """Name in the report."""
        return "cdk-inference"

    @property
    def version(self) -> str:
        """Version in the report."""
        return "1.0.0"

    @property
    def rule_ids(self) -> list[str]:
        """Names of the rules."""
        return ["gpu-function"]

    def validate(self, context: IPolicyValidationContext) -> PolicyValidationPluginReport:
        """Check every function of the templates that has a GPU."""
        violations = [
            PolicyViolation(
                rule_name="gpu-function",
                description=f"{logical_id}: {problem}",
                fix=fix,
                violating_resources=[
                    PolicyViolatingResource(
                        resource_logical_id=logical_id, template_path=str(path), locations=[f"Properties/{location}"]
                    )
                ],
            )
            for path in _templates(context.template_paths)
            for logical_id, location, problem, fix in violations_of(json.loads(path.read_text(encoding="utf-8")))
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


def violations_of(template: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield logical id, property, problem and fix of what cannot work in a template."""
    # A loop (Fn::ForEach) is a list, of resources that do not exist yet.
    resources = {
        name: resource
        for name, resource in template.get("Resources", {}).items()
        if isinstance(resource, dict) and "Type" in resource
    }
    for logical_id, resource in resources.items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Lambda::Function" and "AcceleratorConfig" in properties:
            for problem in _of_function(properties, resources):
                yield logical_id, *problem
        function = resources.get(_referenced(properties.get("FunctionName")) or "", {})
        if resource["Type"] in ("AWS::Lambda::Version", "AWS::Lambda::Alias") and "AcceleratorConfig" in function.get(
            "Properties", {}
        ):
            for problem in _of_version(properties, is_version=resource["Type"] == "AWS::Lambda::Version"):
                yield logical_id, *problem


def _of_function(properties: Mapping[str, Any], resources: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    memory = properties["AcceleratorConfig"].get("AcceleratorMemorySize")
    if isinstance(memory, int) and memory not in ACCELERATOR_MEMORY:
        sizes = ", ".join(map(str, ACCELERATOR_MEMORY))
        yield "AcceleratorConfig", f"{memory} GiB of a GPU", f"use one of {sizes}"
    if properties.get("PackageType") != "Image":
        yield "PackageType", "a GPU function that is a zip", "use a container image"
    architectures = properties.get("Architectures", ["x86_64"])
    if architectures != ["x86_64"]:
        yield "Architectures", f"a GPU function on {architectures}", "use x86_64: Lambda has GPUs on no other"
    if properties.get("SnapStart", {}).get("ApplyOn", "None") != "None":
        yield "SnapStart", "a GPU function with SnapStart", "leave it out: managed instances keep their environments"
    if "VpcConfig" in properties:
        yield "VpcConfig", "a GPU function with a VPC of its own", "give the VPC to the capacity provider"
    size = properties.get("MemorySize", _DEFAULT_MEMORY)
    if isinstance(size, int) and not LEAST_MEMORY <= size <= MOST_MEMORY:
        yield "MemorySize", f"{size} MiB of memory", f"use {LEAST_MEMORY} to {MOST_MEMORY}"
    config = properties.get("CapacityProviderConfig", {}).get("LambdaManagedInstancesCapacityProviderConfig", {})
    provider = config.get("CapacityProviderArn")
    if provider is None:
        yield "CapacityProviderConfig", "a GPU function without a capacity provider", "use GpuCapacity.add_function()"
        return
    instances = resources.get(_referenced(provider) or "", {}).get("Properties", {}).get("InstanceRequirements", {})
    if instances.get("Architectures", ["x86_64"]) != ["x86_64"]:
        yield "CapacityProviderConfig", f"a capacity provider on {instances['Architectures']}", "use a GpuCapacity"


def _of_version(properties: Mapping[str, Any], *, is_version: bool) -> Iterator[tuple[str, str, str]]:
    if "ProvisionedConcurrencyConfig" in properties:
        fix = "use min_environments"
        yield "ProvisionedConcurrencyConfig", "a GPU function with provisioned concurrency", fix
    if is_version and "FunctionScalingConfig" not in properties:
        fix = "use the alias that GpuCapacity.add_function() returns"
        yield "FunctionScalingConfig", "a version of a GPU function that never scales to zero", fix


def _referenced(value: Any) -> str | None:  # noqa: ANN401 - a CloudFormation value
    match value:
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), _]}:
            return name
    return None
