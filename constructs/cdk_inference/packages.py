"""How the code of a stage becomes that of a Lambda function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cdk_inference.bundling import bundle, lambda_source
from cdk_inference.platform import LambdaPlatform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aws_cdk import aws_lambda as lambda_
    from constructs import Construct


@dataclass(frozen=True)
class PackagedCode:
    """What `aws_lambda.Function` is told about its code."""

    code: lambda_.Code
    handler: str
    runtime: lambda_.Runtime
    architecture: lambda_.Architecture


class StagePackage(Protocol):
    """A way to package the code of a stage: a zip, or a container image."""

    def resolve(self, scope: Construct, *, name: str, platform: LambdaPlatform | None) -> PackagedCode:
        """Make the package.

        Parameters
        ----------
        scope
            The stage that it is for.
        name
            What the stage is called in messages.
        platform
            What the user's props say of Python's version and the architecture.
        """


@dataclass(frozen=True)
class ZipPackage:
    """A zip with the shared runtime, bundled without Docker.

    Parameters
    ----------
    handler
        ``module.function`` in the package.
    runtime_requirements
        Name of the runtime's own list of pinned packages.
    requirements
        Packages beside those.
    excluded_requirements
        Distributions that stay out although one of those asks for them.
    sources
        Files and folders of the package beside the runtime, by their name in it.
    """

    handler: str
    runtime_requirements: str
    requirements: tuple[str | Path, ...] = ()
    excluded_requirements: tuple[str, ...] = ()
    sources: Mapping[str, Path | bytes] = field(default_factory=dict)

    def resolve(self, scope: Construct, *, name: str, platform: LambdaPlatform | None) -> PackagedCode:
        """Bundle the zip, or take it from the cache."""
        resolved = LambdaPlatform.resolve(scope, platform)
        source = lambda_source()
        bundled = bundle(
            scope,
            name=name,
            requirements=[source / "requirements" / f"{self.runtime_requirements}.txt", *self.requirements],
            sources={"inference_runtime": source / "inference_runtime", **self.sources},
            platform=resolved,
            excluded=self.excluded_requirements,
        )
        return PackagedCode(bundled.code(), self.handler, resolved.runtime, resolved.cdk_architecture)
