"""Checks functions with a GPU in the finished template, so that no escape hatch goes past it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cdk_inference.capacity.managed_instances import LEAST_MEMORY, MOST_MEMORY
from cdk_inference.common import template_checks
from cdk_inference.common.template_checks import referenced, resources_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from constructs import IConstruct

    from cdk_inference.common.template_checks import Violation

ACCELERATOR_MEMORY = (3, 6, 12, 16, 24, 48)
"""GiB of a GPU that an environment can have."""

_DEFAULT_MEMORY = 128


def check_templates(scope: IConstruct) -> None:
    """Have the templates of the app, or of the stage, that a construct is in checked when they are synthesized."""
    template_checks.check_templates(scope, "gpu-function", violations_of)


def violations_of(template: Mapping[str, Any]) -> Iterator[Violation]:
    """Yield logical id, property, problem and fix of what cannot work in a template."""
    resources = resources_of(template)
    for logical_id, resource in resources.items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Lambda::Function" and "AcceleratorConfig" in properties:
            for problem in _of_function(properties, resources):
                yield logical_id, *problem
        function = resources.get(referenced(properties.get("FunctionName")) or "", {})
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
    instances = resources.get(referenced(provider) or "", {}).get("Properties", {}).get("InstanceRequirements", {})
    if instances.get("Architectures", ["x86_64"]) != ["x86_64"]:
        yield "CapacityProviderConfig", f"a capacity provider on {instances['Architectures']}", "use a GpuCapacity"


def _of_version(properties: Mapping[str, Any], *, is_version: bool) -> Iterator[tuple[str, str, str]]:
    if "ProvisionedConcurrencyConfig" in properties:
        fix = "use min_environments"
        yield "ProvisionedConcurrencyConfig", "a GPU function with provisioned concurrency", fix
    if is_version and "FunctionScalingConfig" not in properties:
        fix = "use the alias that GpuCapacity.add_function() returns"
        yield "FunctionScalingConfig", "a version of a GPU function that never scales to zero", fix
