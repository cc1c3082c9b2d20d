"""Environments that begin with a snapshot, and what Lambda makes snapshots of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aws_cdk import RemovalPolicy
from aws_cdk import aws_lambda as lambda_

from cdk_inference.capacity.strategy import CapacityStrategy, live_alias
from cdk_inference.common.platform import on_cpu_only
from cdk_inference.common.template_checks import check_templates, referenced, resources_of
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from constructs import Construct

    from cdk_inference.common.template_checks import Violation

MOST_STORAGE = 512
"""Most MiB of ephemeral storage, which is what a function has if it says nothing."""

_OLDEST_PYTHON = 12


@dataclass(frozen=True)
class SnapStart(CapacityStrategy):
    """Environments that begin with a snapshot, see `Capacity.snap_start`."""

    def check(self, *, reserved: int | None, ephemeral_mib: int = 512) -> None:  # noqa: ARG002
        """Refuse more ephemeral storage than a snapshot has."""
        if ephemeral_mib > MOST_STORAGE:
            raise PropError(
                f"ephemeral storage must be at most {MOST_STORAGE} MiB with SnapStart, got {ephemeral_mib} MiB for the "
                "model; deliver it in another way, such as ModelDelivery.image(), or use another capacity"
            )

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return the alias; the local target makes no snapshots."""
        if on_cpu_only(scope):
            return live_alias(scope, function)
        _check(function)
        resource = function.node.default_child
        assert isinstance(resource, lambda_.CfnFunction)  # noqa: S101 - for mypy
        # Not the prop of the L2, which cannot know that a version is published, and warns.
        resource.snap_start = lambda_.CfnFunction.SnapStartProperty(apply_on="PublishedVersions")
        # The snapshot of an old version would be paid for as long as it is there.
        function.current_version.apply_removal_policy(RemovalPolicy.DESTROY)
        return live_alias(scope, function)


def _check(function: lambda_.Function) -> None:
    """Refuse a function that Lambda makes no snapshots of; what is changed later is checked in the template.

    Raises
    ------
    PropError
        Its Python is too old.
    """
    if not _has_snapshots(function.runtime.name):
        raise PropError(
            f"runtime of {function.node.path} must be Python 3.{_OLDEST_PYTHON} or newer with SnapStart, got "
            f"{function.runtime.name}"
        )
    check_templates(function, "snap-start", violations_of)


def _has_snapshots(runtime: str) -> bool:
    """Return whether a runtime has snapshots; that of an image is known to Lambda alone."""
    python = re.fullmatch(r"python3\.(\d+)", runtime)
    return python is None or int(python[1]) >= _OLDEST_PYTHON


def violations_of(template: Mapping[str, Any]) -> Iterator[Violation]:
    """Yield logical id, property, problem and fix of what Lambda refuses together with SnapStart."""
    resources = resources_of(template)
    with_snapshots = [  # in the template's order, and so is the report
        name
        for name, resource in resources.items()
        if resource["Type"] == "AWS::Lambda::Function"
        and resource.get("Properties", {}).get("SnapStart", {}).get("ApplyOn") == "PublishedVersions"
    ]
    for name in with_snapshots:
        for problem in _of_function(resources[name]["Properties"]):
            yield name, *problem
    for name, resource in resources.items():
        properties = resource.get("Properties", {})
        if (
            resource["Type"] in ("AWS::Lambda::Version", "AWS::Lambda::Alias")
            and "ProvisionedConcurrencyConfig" in properties
            and referenced(properties.get("FunctionName")) in with_snapshots
        ):
            fix = "use one of both: Capacity.snap_start() or Capacity.provisioned()"
            yield name, "ProvisionedConcurrencyConfig", "provisioned concurrency of a function with SnapStart", fix


def _of_function(properties: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    runtime = properties.get("Runtime")
    if isinstance(runtime, str) and not _has_snapshots(runtime):
        yield "Runtime", f"SnapStart with {runtime}", f"use Python 3.{_OLDEST_PYTHON} or newer"
    size = properties.get("EphemeralStorage", {}).get("Size")
    if isinstance(size, int) and size > MOST_STORAGE:
        fix = f"use at most {MOST_STORAGE}, or another capacity"
        yield "EphemeralStorage", f"SnapStart with {size} MiB of ephemeral storage", fix
    if properties.get("FileSystemConfigs"):
        yield "FileSystemConfigs", "SnapStart with a file system", "leave it out, or use another capacity"
    if "CapacityProviderConfig" in properties:
        fix = "leave it out: managed instances keep their environments"
        yield "SnapStart", "SnapStart of a function on managed instances", fix
