"""The files and variables of a route outside of Lambda: the code and the model of its fused function."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aws_cdk import App, Stack

from cdk_inference.bundling.delivery import shipped_files
from cdk_inference.errors import PropError
from cdk_inference.stages.fused import AFTER, BEFORE, fused_package
from cdk_inference.stages.inference import engine_environment
from cdk_inference.stages.longest_text import check_longest_text
from cdk_inference.stages.preprocess import reading_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.model.project import BuiltModel
    from cdk_inference.pipeline.operated import OperatedPipeline
    from cdk_inference.routing.route import Route

_BUNDLED = {"aws:cdk:bundling-stacks": ["**"]}
_OURS = "inference_runtime"


@dataclass(frozen=True)
class PackagedRoute:
    """A route for one platform.

    Attributes
    ----------
    packages, code, model
        Files by their path in the folder of the application: the installed packages, the runtime with the stages, and
        the model.
    variables
        The environment of the handler, without what its platform decides, such as buckets.
    built
        The model.
    """

    packages: Mapping[str, bytes]
    code: Mapping[str, bytes]
    model: Mapping[str, Path]
    variables: Mapping[str, str]
    built: BuiltModel


def check_portable(route: Route) -> None:
    """Refuse a route that only works in AWS.

    Raises
    ------
    PropError
        It writes masks or explanations.
    """
    if route.postprocess is not None and route.postprocess.makes_masks:
        raise PropError(
            f"route must not make masks outside of AWS, got {route.name!r}; store them by your own postprocess"
        )
    if route.explain is not None:
        raise PropError(f"route must not explain its answers outside of AWS, got {route.name!r}; leave explain out")


def packaged(
    pipeline: OperatedPipeline,
    route: Route,
    platform: LambdaPlatform,
    *,
    requirements: str,
    name: str,
    confidence: bool = False,
) -> PackagedRoute:
    """Bundle the code of a route, and build its model, for a platform.

    Parameters
    ----------
    pipeline
        The pipeline of the route.
    route
        A route that `check_portable` accepts.
    platform
        Python and architecture of the machine.
    requirements
        The runtime's list of packages besides those of the stages.
    name
        The purpose of the package, for messages.
    confidence
        Whether rows say how sure the model was.

    Raises
    ------
    PropError
        The stages do not fit the model or each other, or cannot be bundled for the platform.
    ModelBuildError
        The model cannot be built for the architecture.
    """
    if pipeline.max_object_size is not None and pipeline.max_object_size.is_unresolved():
        raise PropError("max_object_size must be known at synth outside of AWS, got a token; give a Size")
    if route.postprocess is None:
        raise PropError(f"route must have a postprocess, got none in {route.name!r}")
    built = route.model.build(platform.architecture)
    preprocess = route.preprocess.keeping(route.postprocess.needs)
    before = preprocess.bind(built.manifest.inputs)
    after = route.postprocess.fitting(built.manifest.distributions).bind(built.manifest.outputs)
    check_longest_text(built, preprocess, route.model.open_project())
    package = fused_package(before, after)
    lists = (*package.runtime_requirements, requirements)
    package = replace(package, engine="c_api", runtime_requirements=lists, outside=True)
    bundled = package.bundled(bundling_scope(), name=name, platform=platform)
    with zipfile.ZipFile(bundled.zip_path) as archive:
        files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    own = {_OURS, *package.sources}
    code = {name: data for name, data in files.items() if _top(name) in own or name in own}
    return PackagedRoute(
        packages={name: data for name, data in files.items() if name not in code},
        code=code,
        model=shipped_files(built.path, "model"),
        variables={
            **before.environment(BEFORE),
            **after.environment(AFTER),
            **reading_environment(preprocess, built, pipeline.max_object_size),
            **engine_environment(built, confidence=confidence),
            "PIPELINE": pipeline.node.path,
            "INFERENCE_ENGINE": "c_api",
            "BATCH_SECONDS": str(int(pipeline.stage_timeout.to_seconds())),
        },
        built=built,
    )


def bundling_scope() -> Stack:
    """Return a stack whose code is bundled, also where that of the app's stacks is not."""
    return Stack(App(post_cli_context=_BUNDLED), "Package")


def _top(name: str) -> str:
    return name.partition("/")[0]
