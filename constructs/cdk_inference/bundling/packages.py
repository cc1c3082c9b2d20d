"""How the code of a stage becomes that of a Lambda function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from aws_cdk import Annotations, Stack

from cdk_inference.bundling.bundle import BundledCode, WheelPart, bundle, lambda_source, runtime_files
from cdk_inference.bundling.imports import missing_modules
from cdk_inference.common.platform import LambdaPlatform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aws_cdk import aws_lambda as lambda_
    from constructs import Construct

    from cdk_inference.stages.base import StageFunction


Engine = Literal["c_api", "python"]
"""The engine that runs a model: ONNX Runtime's shared library alone, or its Python package."""

# The files that each takes of ONNX Runtime's wheel. The Python package has the library a second time, linked into its
# own, and loads a small one ("providers_shared").
_ENGINE_FILES: dict[Engine, tuple[str, ...]] = {
    "c_api": ("onnxruntime/capi/libonnxruntime.so.*",),
    "python": ("onnxruntime/__init__.py", "onnxruntime/capi/*.py", "onnxruntime/capi/*onnxruntime_p*"),
}
_ENGINE_LICENSES = ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt")


@dataclass(frozen=True)
class PackagedCode:
    """The arguments of `aws_lambda.Function` about its code.

    Parameters
    ----------
    code, handler, runtime, architecture
        As those of the function.
    environment
        Variables that the code reads besides those of its stage.
    layers
        The layers that are unpacked besides the code.
    ephemeral_mib
        MiB of ``/tmp``; 512 are Lambda's default.
    """

    code: lambda_.Code
    handler: str
    runtime: lambda_.Runtime
    architecture: lambda_.Architecture
    environment: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[lambda_.ILayerVersion, ...] = ()
    ephemeral_mib: int = 512


class StagePackage(Protocol):
    """A way to package the code of a stage: a zip, or a container image."""

    def resolve(self, scope: StageFunction, *, name: str, platform: LambdaPlatform | None) -> PackagedCode:
        """Make the package.

        Parameters
        ----------
        scope
            The stage that it is for.
        name
            The name of the stage in messages.
        platform
            Python's version and the architecture, as the user's props say.
        """


@dataclass(frozen=True)
class ZipPackage:
    """A zip with the shared runtime, bundled without Docker.

    Parameters
    ----------
    handler
        ``module.function`` in the package.
    runtime_requirements
        Names of the runtime's own lists of pinned packages.
    engine
        Which form of ONNX Runtime is in the package, if any. The shared library is that of Linux's wheels.
    requirements
        Packages besides those.
    excluded_requirements
        Distributions that stay out although one of those asks for them.
    sources
        Files and folders of the package besides the runtime, by their name in it.
    outside
        Whether it runs outside of AWS, see `runtime_files`.
    """

    handler: str
    runtime_requirements: str | tuple[str, ...] = ()
    engine: Engine | None = None
    requirements: tuple[str | Path, ...] = ()
    excluded_requirements: tuple[str, ...] = ()
    sources: Mapping[str, Path | bytes] = field(default_factory=dict)
    outside: bool = False

    def resolve(self, scope: Construct, *, name: str, platform: LambdaPlatform | None) -> PackagedCode:
        """Bundle the zip, or take it from the cache."""
        resolved = LambdaPlatform.resolve(scope, platform)
        bundled = self.bundled(scope, name=name, platform=resolved)
        return PackagedCode(bundled.code(), self.handler, resolved.runtime, resolved.cdk_architecture)

    def bundled(self, scope: Construct, *, name: str, platform: LambdaPlatform) -> BundledCode:
        """Return the zip itself, for a platform that is resolved. An import that cannot work gets a warning."""
        source = lambda_source()
        lists = [self.runtime_requirements] if isinstance(self.runtime_requirements, str) else self.runtime_requirements
        if self.engine == "python":
            lists = [*lists, "inference"]
        parts = []
        if self.engine is not None:
            kept = (*_ENGINE_FILES[self.engine], *_ENGINE_LICENSES)
            parts.append(WheelPart(source / "requirements" / "onnxruntime.txt", kept))
        made = bundle(
            scope,
            name=name,
            requirements=[*(source / "requirements" / f"{entry}.txt" for entry in lists), *self.requirements],
            sources={**runtime_files(outside=self.outside), **self.sources},
            platform=platform,
            excluded=self.excluded_requirements,
            parts=parts,
        )
        if Stack.of(scope).bundling_required:
            for file, modules in missing_modules(made.zip_path, self.sources).items():
                Annotations.of(scope).add_warning_v2(
                    "cdk-inference:imports",
                    f"{file} imports {', '.join(modules)}, which its function does not have, so that it cannot start; "
                    "add what is missing to requirements or sources of the stage",
                )
        return made
