"""The container image of a GPU: what Docker builds it from, the same on every machine. Nothing here needs Docker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aws_cdk import Stack
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_lambda as lambda_

from cdk_inference.bundling.bundle import lambda_source, runtime_files
from cdk_inference.bundling.delivery import model_folder, shipped_files
from cdk_inference.bundling.images import placeholder, staged
from cdk_inference.bundling.packages import PackagedCode
from cdk_inference.bundling.zip_files import source_files

if TYPE_CHECKING:
    from pathlib import Path

    from constructs import Construct

    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.explanations.explain import Explanation
    from cdk_inference.model.artifact import ModelArtifact

_REQUIREMENTS = ("inference-gpu-cuda.txt", "inference-gpu.txt")


def gpu_image(
    scope: Construct,
    id: str,
    *,
    model: ModelArtifact,
    target: Literal["lambda", "sagemaker"],
    explanation: Explanation | None = None,
) -> ecr_assets.DockerImageAsset:
    """Return the image that runs a model on a GPU, which the CDK CLI builds and publishes when it deploys.

    Parameters
    ----------
    scope, id
        As in every construct.
    model
        The model, which is part of the image.
    target
        The service that calls the image. The handler is the same for all.
    explanation
        As that of `ImagePackage`.
    """
    return ecr_assets.DockerImageAsset(
        scope,
        id,
        directory=str(_context(scope, model, explanation)),
        target=target,
        platform=ecr_assets.Platform.LINUX_AMD64,
    )


@dataclass(frozen=True)
class ImagePackage:
    """The image as the package of a stage; see `packages.StagePackage`.

    Parameters
    ----------
    model
        The model, which is part of the image.
    explanation
        The settings of explanations, which are part of it too. None for none.
    """

    model: ModelArtifact
    explanation: Explanation | None = None

    def resolve(self, scope: Construct, *, name: str, platform: LambdaPlatform | None) -> PackagedCode:  # noqa: ARG002
        """Stage what the image is built from. The platform is that of the image: Python comes with it."""
        return PackagedCode(
            code=lambda_.Code.from_asset_image(
                str(_context(scope, self.model, self.explanation)),
                target="lambda",
                platform=ecr_assets.Platform.LINUX_AMD64,
            ),
            handler=lambda_.Handler.FROM_IMAGE,
            runtime=lambda_.Runtime.FROM_IMAGE,
            architecture=lambda_.Architecture.X86_64,
        )


def _context(scope: Construct, model: ModelArtifact, explanation: Explanation | None) -> Path:
    """Return the folder that Docker builds the image from, made once for each content."""
    path = model_folder(scope, model)
    if path is None or not Stack.of(scope).bundling_required:
        return placeholder()
    source = lambda_source()
    return staged(
        source_files(
            {
                "Dockerfile": source / "gpu" / "Dockerfile",
                **{f"requirements/{name}": source / "requirements" / name for name in _REQUIREMENTS},
                **runtime_files(),
                **shipped_files(path, "model"),
                **({} if explanation is None else explanation.files),
            }
        )
    )
