"""How a model gets into its function: in the zip, by a layer, from S3 when it starts, or in a container image."""

from __future__ import annotations

import json
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aws_cdk import Annotations, Stack, Token
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_

from cdk_inference.bundling.bundle import files_zip, lambda_source
from cdk_inference.bundling.packages import PackagedCode
from cdk_inference.bundling.zip_files import UNPACKED_LIMIT, size_of, source_files
from cdk_inference.common.contents import hash_once
from cdk_inference.common.platform import LambdaPlatform, on_cpu_only
from cdk_inference.common.props.descriptions import LAYER, described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_choice
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from constructs import IConstruct

    from cdk_inference.bundling.packages import Engine, ZipPackage
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.recipe.targets import Architecture
    from cdk_inference.stages.base import StageFunction

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
_IMAGE_LIMIT = 10 * 1024**3  # bytes
_LEAST_STORAGE, _MOST_STORAGE = 512, 10_240  # MiB of /tmp

_SPARE_STORAGE = 64
"""MiB of /tmp that the model leaves to others."""

_ALWAYS_ZIPPED = 64 * 1024**2
"""So many bytes, of a model and of the user's files, fit next to every package of ours, which need not be counted."""

_MIB = 1024**2


@check_props
class ModelDelivery(ABC):
    """How a model gets into its function; made by one of the class methods."""

    @classmethod
    def auto(cls) -> ModelDelivery:
        """Choose by size, from Lambda's limits: this is the default.

        In the zip, where code and model are at most 250 MB together, unpacked. Else from S3, where the model fits the
        512 MiB of ``/tmp`` that every function has, and 64 MiB are left. Else in an image; from S3 where there is none:
        on the local target, and with wheels for another system.
        """
        return AutoDelivery()

    @classmethod
    def zip(cls) -> ModelDelivery:
        """Put it into the function's zip. Together they have at most 250 MB, unpacked."""
        return ZipDelivery()

    @classmethod
    def layer(cls) -> ModelDelivery:
        """Put it into a layer, one for all functions of a stack that run it: the code deploys without it.

        Code and model have at most 250 MB together, unpacked.
        """
        return LayerDelivery()

    @classmethod
    def s3(cls) -> ModelDelivery:
        """Download it from CDK's asset bucket when an environment starts, in ranges and checked by SHA-256.

        The function gets as much ``/tmp`` as the model takes; you pay for what is above 512 MiB. It may read its model
        in that bucket, and nothing else.
        """
        return S3Delivery()

    @classmethod
    def image(cls) -> ModelDelivery:
        """Put it into a container image with the code, which the CDK CLI builds with Docker when it deploys.

        Code and model have at most 10 GB. The local target has no images: it takes what `auto` would.
        """
        return ImageDelivery()

    @abstractmethod
    def bind(
        self, scope: StageFunction, *, package: ZipPackage, model: ModelArtifact, name: str, platform: LambdaPlatform
    ) -> PackagedCode:
        """Make what the function is told about its code.

        Parameters
        ----------
        scope
            The stage; it is granted what it needs.
        package
            The code without the model.
        model
            The model.
        name
            The name of the stage in messages.
        platform
            The platform of the function.

        Raises
        ------
        PropError
            Lambda would refuse it.
        """


@dataclass(frozen=True)
class ModelPackage:
    """Code that runs a model, an engine, and the model: the package of a stage; see `packages.StagePackage`.

    Parameters
    ----------
    package
        The code, without engine and model.
    model
        The model.
    memory_size
        MiB of the function, which must hold the model.
    engine
        Default: ONNX Runtime's shared library where the platform's wheels have one, and its Python package elsewhere,
        such as on a Mac.
    delivery
        How the model gets into the function.
    """

    package: ZipPackage
    model: ModelArtifact
    memory_size: int
    engine: Engine | None = None
    delivery: ModelDelivery = field(default_factory=ModelDelivery.auto)

    def resolve(self, scope: StageFunction, *, name: str, platform: LambdaPlatform | None) -> PackagedCode:
        """Package engine and code, and deliver the model."""
        resolved = LambdaPlatform.resolve(scope, platform)
        engine = _engine(self.engine, resolved)
        package = replace(self.package, engine=engine)
        path = model_folder(scope, self.model)
        _check_arithmetic(scope, self.model, name=name, architecture=resolved.architecture)
        if path is None:  # nothing was built, and nothing is deployed
            packaged = package.resolve(scope, name=name, platform=resolved)
        else:
            size = _size(shipped_files(path))
            if not Token.is_unresolved(self.memory_size) and size > self.memory_size * _MIB:
                raise PropError(
                    f"memory_size of {name} must be larger than its model of {_mib(size)} MiB, got {self.memory_size} "
                    "MiB; give the function more memory"
                )
            packaged = self.delivery.bind(scope, package=package, model=self.model, name=name, platform=resolved)
        return replace(packaged, environment={"INFERENCE_ENGINE": engine, **packaged.environment})


@dataclass(frozen=True)
class AutoDelivery(ModelDelivery):
    """See `ModelDelivery.auto`."""

    def bind(
        self, scope: StageFunction, *, package: ZipPackage, model: ModelArtifact, name: str, platform: LambdaPlatform
    ) -> PackagedCode:
        """Choose, and deliver so."""
        chosen = self._choose(scope, package, _size(shipped_files(_path(model))), name, platform)
        return chosen.bind(scope, package=package, model=model, name=name, platform=platform)

    def _choose(
        self, scope: StageFunction, package: ZipPackage, size: int, name: str, platform: LambdaPlatform
    ) -> ModelDelivery:
        # The user's own requirements can be of any size.
        if not package.requirements and size + _size(package.sources) <= _ALWAYS_ZIPPED:
            return ZipDelivery()
        if size <= UNPACKED_LIMIT:
            code = package.bundled(scope, name=name, platform=platform)
            if _planned_size(code.zip_path) + size <= UNPACKED_LIMIT:
                return ZipDelivery()
        if on_cpu_only(scope) or platform.wheels is not None or _storage(size) == _LEAST_STORAGE:
            return S3Delivery()
        return ImageDelivery()


@dataclass(frozen=True)
class ZipDelivery(ModelDelivery):
    """See `ModelDelivery.zip`."""

    def bind(
        self, scope: StageFunction, *, package: ZipPackage, model: ModelArtifact, name: str, platform: LambdaPlatform
    ) -> PackagedCode:
        """Bundle code and model together; bundling refuses what is too large."""
        path = _path(model)
        if (size := _size(shipped_files(path))) > UNPACKED_LIMIT:
            raise PropError(_too_large(name, "zip", size, 0))
        both = replace(package, sources={**package.sources, **shipped_files(path, "model")})
        return both.resolve(scope, name=name, platform=platform)


@dataclass(frozen=True)
class LayerDelivery(ModelDelivery):
    """See `ModelDelivery.layer`."""

    def bind(
        self, scope: StageFunction, *, package: ZipPackage, model: ModelArtifact, name: str, platform: LambdaPlatform
    ) -> PackagedCode:
        """Bundle the code, and make the layer unless another function of the stack has it."""
        path = _path(model)
        size = _size(shipped_files(path))
        code = package.bundled(scope, name=name, platform=platform)
        if size + (beside := _unpacked_size(code.zip_path)) > UNPACKED_LIMIT:
            raise PropError(_too_large(name, "layer", size, beside))
        # In the folder that Lambda puts onto Python's path, so that the function finds it wherever layers are unpacked.
        zipped = files_zip(scope, name=f"the layer of {name}", sources=shipped_files(path, "python/inference_model"))
        stack = Stack.of(scope)
        id = f"ModelLayer{model.version}"
        layer = stack.node.try_find_child(id)
        if not isinstance(layer, lambda_.LayerVersion):
            layer = lambda_.LayerVersion(
                stack,
                id,
                code=zipped.code(),
                description=described(f"{model.manifest.name} {model.version}", LAYER),
            )
        return PackagedCode(
            code=code.code(),
            handler=package.handler,
            runtime=platform.runtime,
            architecture=platform.cdk_architecture,
            environment={"MODEL_DELIVERY": "layer"},
            layers=(layer,),
        )


@dataclass(frozen=True)
class S3Delivery(ModelDelivery):
    """See `ModelDelivery.s3`."""

    def bind(
        self, scope: StageFunction, *, package: ZipPackage, model: ModelArtifact, name: str, platform: LambdaPlatform
    ) -> PackagedCode:
        """Bundle the code, and publish the model's files as assets."""
        from aws_cdk import aws_s3_assets as s3_assets  # noqa: PLC0415 - not for the other deliveries

        path = _path(model)
        size = _size(shipped_files(path))
        storage = _storage(size)
        if storage > _MOST_STORAGE:
            raise PropError(
                f"ephemeral storage of {name} must be at most {_MOST_STORAGE} MiB, got {storage} MiB for its model of "
                f"{_mib(size)} MiB; deliver it in an image"
            )
        files, objects, bucket = [], [], ""
        for file_name, file in sorted(shipped_files(path).items()):
            digest = hash_once(file)
            asset = s3_assets.Asset(scope, f"Model-{file_name}", path=str(file), asset_hash=digest)
            bucket = asset.s3_bucket_name
            files.append({"name": file_name, "key": asset.s3_object_key, "size": file.stat().st_size, "sha256": digest})
            objects.append(asset.bucket.arn_for_objects(asset.s3_object_key))
        # Not `asset.grant_read`, which grants the whole bucket.
        iam.Grant.add_to_principal(grantee=scope, actions=["s3:GetObject"], resource_arns=objects)
        packaged = package.resolve(scope, name=name, platform=platform)
        return replace(
            packaged,
            environment={"MODEL_DELIVERY": "s3", "MODEL_BUCKET": bucket, "MODEL_FILES": _compact(files)},
            ephemeral_mib=storage,
        )


@dataclass(frozen=True)
class ImageDelivery(ModelDelivery):
    """See `ModelDelivery.image`."""

    def bind(
        self, scope: StageFunction, *, package: ZipPackage, model: ModelArtifact, name: str, platform: LambdaPlatform
    ) -> PackagedCode:
        """Stage what the image is built from: the files of the zip, and the model."""
        if on_cpu_only(scope):
            return AutoDelivery().bind(scope, package=package, model=model, name=name, platform=platform)
        if platform.wheels is not None:
            raise PropError(
                f"wheels must be left out for {name}, whose image has Amazon Linux, got {platform.wheels!r}"
            )
        path = _path(model)
        if (size := _size(shipped_files(path))) > _IMAGE_LIMIT:
            raise PropError(
                f"the model of {name} must be at most {_mib(_IMAGE_LIMIT)} MiB in an image, got {_mib(size)} MiB; use "
                "a smaller model"
            )
        from aws_cdk import aws_ecr_assets as ecr_assets  # noqa: PLC0415 - not for the other deliveries

        from cdk_inference.bundling.images import placeholder, staged  # noqa: PLC0415

        if not Stack.of(scope).bundling_required:
            folder = placeholder()
        else:
            code = package.bundled(scope, name=name, platform=platform)
            folder = staged(
                source_files({"Dockerfile": lambda_source() / "cpu" / "Dockerfile", **shipped_files(path, "model")}),
                code=code,
            )
        arm = platform.architecture == "arm64"
        return PackagedCode(
            code=lambda_.Code.from_asset_image(
                str(folder),
                cmd=[package.handler],
                # The Dockerfile has the exact image of the default.
                build_args=None if platform.python == LambdaPlatform().python else {"PYTHON": platform.python},
                platform=ecr_assets.Platform.LINUX_ARM64 if arm else ecr_assets.Platform.LINUX_AMD64,
            ),
            handler=lambda_.Handler.FROM_IMAGE,
            runtime=lambda_.Runtime.FROM_IMAGE,
            architecture=platform.cdk_architecture,
        )


def model_folder(scope: IConstruct, model: ModelArtifact) -> Path | None:
    """Return the model's folder for what is deployed with a scope; None if the stacks of both are not selected.

    Raises
    ------
    PropError
        If the scope is to be deployed, and the model was not built, since its stack is not selected.
    """
    stack = Stack.of(scope)
    if model.path is None and stack.bundling_required:
        raise PropError(
            f"stack '{Stack.of(model).node.path}' must be selected with '{stack.node.path}', where {scope.node.path} "
            f"runs its model {model.manifest.name}; select both, or leave --exclusively out"
        )
    return model.path


def _check_arithmetic(scope: StageFunction, model: ModelArtifact, *, name: str, architecture: Architecture) -> None:
    """Refuse a model for arm64 on CPUs where its sums may saturate, and warn of one that was quantized elsewhere."""
    manifest = model.manifest
    if architecture in manifest.exact_on or model.path is None:
        return
    if manifest.target not in ("any", architecture):
        raise PropError(
            f"model of {name} must be built for {architecture}, got {manifest.name} for {manifest.target}, whose 8-bit "
            f"sums saturate on {architecture} CPUs without VNNI; give ModelArtifact the platform of the function"
        )
    Annotations.of(scope).add_warning_v2(
        "cdk-inference:saturating-model",
        f"{manifest.name} has 8-bit products whose 16-bit sums can saturate on x86_64 CPUs without VNNI, and Lambda "
        "does not promise VNNI: its answers may be worse there than its gate says. Give the recipe the float model, so "
        "that it is quantized without saturation, or run the function on arm64",
    )


def _engine(engine: Engine | None, platform: LambdaPlatform) -> Engine:
    # The library is that of Linux's wheels.
    if engine is None:
        return "c_api" if "linux" in platform.uv_platform else "python"
    check_choice(("c_api", "python"), engine=engine)
    if engine == "c_api" and "linux" not in platform.uv_platform:
        raise PropError(f"engine must be 'python' with wheels for {platform.uv_platform}, got 'c_api'")
    return engine


def _path(model: ModelArtifact) -> Path:
    if model.path is None:
        raise PropError(
            "the model must be built before it is delivered, got one whose stack is not selected; select that stack too"
        )
    return model.path


def shipped_files(model: Path, folder: str = ".") -> dict[str, Path]:
    """Return what a function loads of a model, by path in a folder of its package.

    The manifest stays behind: it says when and how a model was built, so that rebuilding the same model would redeploy
    its function.
    """
    files = source_files({folder: model})
    return {name: file for name, file in files.items() if isinstance(file, Path) and file.name != "manifest.json"}


def _size(sources: Path | Mapping[str, Path | bytes]) -> int:
    """Return the bytes of a folder, or of what is in a package."""
    files = source_files(sources if isinstance(sources, Mapping) else {".": sources})
    return sum(map(size_of, files.values()))


def _storage(size: int) -> int:
    """Return the MiB of /tmp that a model of this many bytes takes."""
    return max(_LEAST_STORAGE, _mib(size) + _SPARE_STORAGE)


def _mib(size: int) -> int:
    return math.ceil(size / _MIB)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _unpacked_size(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _planned_size(path: Path) -> int:
    """Return the bytes of what a zip unpacks to, with bytecode as large as its modules.

    So that what is chosen does not depend on whether this machine has made any, and with which Python.
    """
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist() if "__pycache__" not in entry.filename}
    return sum(size * 2 if name.endswith(".py") else size for name, size in sizes.items())


def _too_large(name: str, where: str, model: int, code: int) -> str:
    with_code = f" and {code / 1e6:.0f} MB of code" if code else ""
    return (
        f"zip and layers of {name} must be at most {UNPACKED_LIMIT / 1e6:.0f} MB unpacked, got a model of "
        f"{model / 1e6:.0f} MB{with_code}; deliver it with ModelDelivery.s3() or .image(), not by {where}"
    )
