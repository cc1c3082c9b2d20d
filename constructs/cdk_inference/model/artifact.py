"""The construct that brings a built model into an app."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aws_cdk import CfnOutput, Stack
from constructs import Construct

from cdk_inference.common.contents import hash_once
from cdk_inference.common.platform import LambdaPlatform
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.model.project import BuiltModel, Project
    from cdk_inference.model.recipe.precision import Pinned
    from cdk_inference.model.recipe.recipe import ModelRecipe
    from cdk_inference.model.recipe.targets import Architecture
    from cdk_inference.model.recipe.tensors import TensorSpec
    from cdk_inference.model.records.manifest import Manifest


@check_props
class ModelArtifact(Construct):
    """A model, built from its recipe while the app synthesizes and cached by content.

    Nothing is built for stacks that CDK does not bundle (``cdk ls``, or a deploy of other stacks): `path` is
    then None and the manifest holds the recipe's declared inputs and outputs, with version ``"unbuilt"``.

    The stack gets the outputs ``Version``, ``Precision`` and ``Quality`` of this construct.

    Parameters
    ----------
    scope, id
        As in every construct.
    recipe
        Path of a recipe file, or a recipe.
    recipe_folder
        Folder that the recipe's paths are relative to; needed with a `ModelRecipe`, by default that of the file.
    precision
        A precision that takes the place of the recipe's and leaves nothing to choose, such as `Float16` for a GPU. It
        must pass the recipe's gate, and needs no lock. Default: the recipe's.
    platform
        Platform of the functions that run it. For x86_64, weights of 8 bits leave room in the 16-bit sums of CPUs
        without VNNI. For arm64, they have their full range. Default: the platform of functions for which none is given.
    cache_dir
        Cache root, by default ``$CDK_INFERENCE_CACHE`` or the user's cache folder.
    frozen_lock
        Fail rather than search for a precision, if the recipe has no lock that fits; cascades of the model fail rather
        than measure. Default: only if the environment has ``CDK_INFERENCE_FROZEN_LOCK=1``, which suits continuous
        integration.

    Raises
    ------
    ModelBuildError
        If the recipe is wrong, the build fails, or the model does not pass its gate.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        recipe: str | Path | ModelRecipe,
        recipe_folder: str | Path | None = None,
        precision: Pinned | None = None,
        platform: LambdaPlatform | None = None,
        cache_dir: str | Path | None = None,
        frozen_lock: bool = False,
    ) -> None:
        super().__init__(scope, id)
        # Here, so that an app's imports do not wait for what builds models, nor for cattrs.
        from cdk_inference.model.project import build_project, open_project, with_precision  # noqa: PLC0415
        from cdk_inference.model.recipe.recipe import ModelRecipe, load_recipe  # noqa: PLC0415

        self.path: Path | None = None
        """Folder with ``manifest.json`` and the files of the model; see `cdk_inference.model.BuiltModel`."""
        self.project: Project | None = None
        """The recipe with its surroundings, where it was built."""
        self.frozen_lock = frozen_lock
        """Whether its lock is frozen, and with it the lock of each cascade that it is part of."""
        self._open: Callable[..., Project] = partial(
            open_project,
            recipe,
            folder=recipe_folder,
            cache=cache_dir,
            precision=precision,
            architecture=LambdaPlatform.resolve(self, platform).architecture,
        )
        if Stack.of(self).bundling_required:
            self.project = self._open()
            self._adopt(build_project(self.project, frozen_lock=frozen_lock))
        else:
            declared = recipe if isinstance(recipe, ModelRecipe) else load_recipe(recipe)[0]
            self.manifest, self.asset_hash = _placeholder(with_precision(declared, precision)), "unbuilt"
        self._add_outputs()

    @classmethod
    def from_registry(
        cls,
        scope: Construct,
        id: str,
        *,
        registry: str | Path,
        name: str,
        version: str,
        platform: LambdaPlatform | None = None,
        cache_dir: str | Path | None = None,
    ) -> ModelArtifact:
        """Use a model that was built elsewhere, and pushed with ``python -m cdk_inference.model push``.

        Neither torch nor the ``model`` extra is needed. A model that was pulled once comes from the cache, without a
        call to the registry. It cannot be part of a `Routing.cascade`, whose threshold is measured on a recipe's data.

        Parameters
        ----------
        scope, id
            As in every construct.
        registry
            A folder, or ``s3://bucket/prefix``, which needs the extra ``registry``.
        name, version
            As ``python -m cdk_inference.model list`` shows them.
        platform
            Platform of the functions that run it. Default: the platform of functions for which none is given.
        cache_dir
            Cache root, by default ``$CDK_INFERENCE_CACHE`` or the user's cache folder.

        Raises
        ------
        ModelBuildError
            If the registry has no such model or one that is damaged, or if the model was built for other CPUs.
        """
        return _PulledModel(scope, id, registry, name, version, platform, cache_dir)

    def _adopt(self, built: BuiltModel) -> None:
        self.path, self.manifest, self.asset_hash = built.path, built.manifest, built.asset_hash
        from cdk_inference.model.records.manifest import ASSEMBLY_METADATA  # noqa: PLC0415 - as above

        self.node.add_metadata(ASSEMBLY_METADATA, _record(built.path, built.manifest))

    def _add_outputs(self) -> None:
        name = self.manifest.name
        CfnOutput(self, "Version", value=self.version, description=f"version of {name}: changes with its bytes alone")
        CfnOutput(self, "Precision", value=_precision(self.manifest), description=f"precision and size of {name}")
        CfnOutput(self, "Quality", value=_quality(self.manifest), description=f"what {name} was gated by at build time")

    def build(self, architecture: Architecture | None = None) -> BuiltModel:
        """Return the built model, also in a stack that CDK does not bundle: what `cdk_inference.testing` runs.

        Parameters
        ----------
        architecture
            The CPUs that it is built for, such as those of an image. Default: those of its functions.

        Raises
        ------
        ModelBuildError
            If the recipe is wrong, the build fails, or the model does not pass its gate. A model of a registry may be
            for other CPUs, too: there is no recipe to build it from.
        """
        from cdk_inference.model.project import BuiltModel, build_project  # noqa: PLC0415 - as above

        fits = architecture is None or self.manifest.target in ("any", architecture)
        if self.path is None or (not fits and self.project is not None):
            other = {} if architecture is None else {"architecture": architecture}
            return build_project(self._open(**other), frozen_lock=self.frozen_lock)
        if not fits:
            raise ModelBuildError(
                f"model {self.manifest.name!r} must be built for {architecture}, got one for {self.manifest.target}"
            )
        return BuiltModel(self.path, self.manifest, self.version, self.asset_hash)

    def open_project(self) -> Project | None:
        """Return the recipe with its surroundings, also in a stack that CDK does not bundle.

        Returns
        -------
        Project or None
            None for a model of a registry.
        """
        return self.project if self.project is not None else self._open()

    @property
    def recipe_folder(self) -> Path | None:
        """The folder of the recipe, with its locks; None for a model of a registry."""
        project = self.open_project()
        return None if project is None else project.folder

    @property
    def version(self) -> str:
        """Model version: changes if and only if the bytes of the model do."""
        return self.manifest.model_version

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs."""
        return self.manifest.outputs


class _PulledModel(ModelArtifact):
    """A model of a registry; see `ModelArtifact.from_registry`."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        registry: str | Path,
        name: str,
        version: str,
        platform: LambdaPlatform | None,
        cache_dir: str | Path | None,
    ) -> None:
        Construct.__init__(self, scope, id)
        from cdk_inference.model.registry.registry import Registry  # noqa: PLC0415 - as above

        self.project, self.frozen_lock = None, True
        self._adopt(Registry(registry).pull(name, version, cache=None if cache_dir is None else Path(cache_dir)))
        architecture = LambdaPlatform.resolve(self, platform).architecture
        if self.manifest.target not in ("any", architecture):
            raise ModelBuildError(
                f"version {version!r} of model {name!r} must be built for {architecture}, got one for "
                f"{self.manifest.target}; push one with --architecture {architecture}, or give it another platform"
            )
        self._add_outputs()

    def open_project(self) -> None:
        """Return None: there is no recipe."""


def _record(path: Path, manifest: Manifest) -> str:
    """Return what `cdk_inference.bundling.sbom` reads: how the model was built, and the hashes of its files."""
    files = [
        {"name": file.name, "sha256": hash_once(file)}
        for file in sorted(path.iterdir())
        if file.name != "manifest.json"
    ]
    return json.dumps({"files": files, "manifest": json.loads(manifest.to_json())}, sort_keys=True)


def _precision(manifest: Manifest) -> str:
    if not manifest.size_bytes:
        return manifest.precision
    times = manifest.baseline_size_bytes / manifest.size_bytes
    return f"{manifest.precision}, {manifest.size_bytes / 1e6:.2f} MB, {times:.1f} times smaller than float32"


def _quality(manifest: Manifest) -> str:
    metric = manifest.metric
    if metric is None:
        return "unbuilt"
    return (
        f"{metric.name} {metric.quantized:g} over {metric.samples} samples "
        f"(gate {metric.gate:g}, float32 {metric.baseline:g})"
    )


def _placeholder(recipe: ModelRecipe) -> Manifest:
    from cdk_inference.model.recipe.targets import ARCHITECTURES  # noqa: PLC0415
    from cdk_inference.model.records.manifest import Manifest  # noqa: PLC0415

    return Manifest(
        name=recipe.name,
        model_version="unbuilt",
        inputs=recipe.inputs,
        outputs=recipe.outputs,
        architecture="",
        precision=recipe.precision.kind,
        target="any",
        exact_on=ARCHITECTURES,
        opset=0,
        size_bytes=0,
        baseline_size_bytes=0,
        metric=None,
        parity={},
        measured=None,
        distributions={},
        batch_dependent=False,
        provenance={"license": recipe.provenance.license, "origin": recipe.provenance.origin},
    )
