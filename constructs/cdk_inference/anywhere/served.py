"""The files and variables of a server for a route of a pipeline: the code and the model of its fused function."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aws_cdk import App, Stack

from cdk_inference.bundling.delivery import shipped_files
from cdk_inference.errors import PropError
from cdk_inference.stages.fused import AFTER, BEFORE, fused_package
from cdk_inference.stages.inference import engine_environment
from cdk_inference.stages.preprocess import reading_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.model.project import BuiltModel
    from cdk_inference.pipeline.operated import OperatedPipeline
    from cdk_inference.routing.route import Route

REQUIREMENTS = "serving"
"""The runtime's list of packages of the server."""

_BUNDLED = {"aws:cdk:bundling-stacks": ["**"]}
_OURS = "inference_runtime"


@dataclass(frozen=True)
class Served:
    """A route for one platform.

    Attributes
    ----------
    packages, code, model
        Files by their path in the folder of the application: the installed packages, the runtime with the stages, and
        the model.
    variables
        The environment of the server, without what its platform decides, such as buckets.
    built
        The model.
    """

    packages: Mapping[str, bytes]
    code: Mapping[str, bytes]
    model: Mapping[str, Path]
    variables: Mapping[str, str]
    built: BuiltModel


def route_of(pipeline: OperatedPipeline, name: str | None = None) -> Route:
    """Return a route that a server can score by.

    Parameters
    ----------
    pipeline
        The pipeline.
    name
        The name of the route. Default: the only one.

    Raises
    ------
    PropError
        The route does not exist, or is one of several. Or it writes masks or explanations, which need AWS.
    """
    routes = pipeline.described_routes
    if name is None and len(routes) == 1:
        (name,) = routes
    if name is None or name not in routes:
        raise PropError(f"route must be {' or '.join(map(repr, routes))}, got {name!r}")
    route = routes[name]
    if route.postprocess is not None and route.postprocess.makes_masks:
        raise PropError(f"route must not make masks outside of AWS, got {name!r}; store them by your own postprocess")
    if route.explain is not None:
        raise PropError(f"route must not explain its answers outside of AWS, got {name!r}; leave explain out")
    return route


def served(pipeline: OperatedPipeline, route: Route, platform: LambdaPlatform) -> Served:
    """Bundle the code of a route, and build its model, for a platform.

    Parameters
    ----------
    pipeline
        The pipeline of the route.
    route
        As `route_of` returns it.
    platform
        Python and architecture of the image.

    Raises
    ------
    PropError
        The stages do not fit the model or each other, or cannot be bundled for the platform.
    ModelBuildError
        The model cannot be built for the architecture.
    """
    if route.postprocess is None:
        raise PropError(f"route must have a postprocess, got none in {route.name!r}")
    built = route.model.build(platform.architecture)
    preprocess = route.preprocess.keeping(route.postprocess.needs)
    before, after = preprocess.bind(built.manifest.inputs), route.postprocess.bind(built.manifest.outputs)
    package = fused_package(before, after)
    lists = (*package.runtime_requirements, REQUIREMENTS)
    package = replace(package, engine="c_api", runtime_requirements=lists)
    scope = Stack(App(post_cli_context=_BUNDLED), "Image")
    bundled = package.bundled(scope, name=f"the image of {pipeline.node.path}", platform=platform)
    with zipfile.ZipFile(bundled.zip_path) as archive:
        files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    own = {_OURS, *package.sources}
    code = {name: data for name, data in files.items() if _top(name) in own or name in own}
    return Served(
        packages={name: data for name, data in files.items() if name not in code},
        code=code,
        model=shipped_files(built.path, "model"),
        variables={
            **before.environment(BEFORE),
            **after.environment(AFTER),
            **reading_environment(preprocess, built, pipeline.max_object_size),
            **engine_environment(built),
            "PIPELINE": pipeline.node.path,
            "INFERENCE_ENGINE": "c_api",
            "BATCH_SECONDS": str(int(pipeline.stage_timeout.to_seconds())),
        },
        built=built,
    )


def _top(name: str) -> str:
    return name.partition("/")[0]
