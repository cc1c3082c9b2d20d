"""Writes the image of a server, for one or more architectures, as an OCI layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.anywhere.oci.layout import Base, Image, Layout, read_base
from cdk_inference.common.platform import LambdaPlatform
from cdk_inference.errors import PropError
from cdk_inference.routing.packaged import check_portable, packaged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cdk_inference.pipeline.operated import OperatedPipeline
    from cdk_inference.routing.packaged import PackagedRoute
    from cdk_inference.routing.route import Route

ARCHITECTURES = {"linux/amd64": ("amd64", "x86_64"), "linux/arm64": ("arm64", "arm64")}
"""The names of Go and of AWS for the architecture of each platform."""

SCRATCH = "scratch"
"""The base of an image that has nothing but our layers; it needs a Python from elsewhere."""

ROOT = "srv/inference"
"""The folder of the application in the image."""

REQUIREMENTS = "serving"
"""The runtime's list of packages of the server."""

PORT = 8080
USER = 65532
"""The number of the user in distroless images; no other file of the image belongs to it."""

_PYTHON = "PYTHON_VERSION"
"""The variable in which Docker's official images say which Python they have."""


@dataclass(frozen=True)
class Written:
    """An image that was written.

    Attributes
    ----------
    digest
        The digest by which a registry names it.
    model_version
        The version of its model.
    model_bytes
        The size of the model's files.
    """

    digest: str
    model_version: str
    model_bytes: int


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
    check_portable(routes[name])
    return routes[name]


def write_image(
    pipeline: OperatedPipeline,
    output: Path,
    *,
    platforms: Sequence[str],
    base: Path | None,
    python: str,
    route: str | None = None,
    wheels: str | None = None,
) -> Written:
    """Write the image of a route's server.

    The same app, packages and base give the same bytes. Neither the clock nor the folder enters them.

    Parameters
    ----------
    pipeline
        The pipeline.
    output
        The folder of the layout. A layout that is there is replaced.
    platforms
        Such as ``linux/amd64``.
    base
        The layout of the base image, with glibc and this Python. Default: nothing.
    python
        The version of Python in the base, such as ``"3.14"``.
    route
        The name of the route. Default: the only one.
    wheels
        Platform of the wheels, as uv names it, if there is one architecture. Default: what glibc 2.34 loads.

    Raises
    ------
    PropError
        The route, the platform or the base does not exist, or the output is something else.
    ModelBuildError
        The model cannot be built.
    """
    layout = Layout(output)
    chosen = route_of(pipeline, route)
    images, last = [], None
    for platform in dict.fromkeys(platforms):
        if platform not in ARCHITECTURES:
            raise PropError(f"platform must be {' or '.join(ARCHITECTURES)}, got '{platform}'")
        go, aws = ARCHITECTURES[platform]
        found = Base() if base is None else read_base(base, go)
        _check_python(found, python)
        last = packaged(
            pipeline,
            chosen,
            LambdaPlatform(python, aws, wheels=wheels),  # type: ignore[arg-type]
            requirements=REQUIREMENTS,
            name=f"the image of {pipeline.node.path}",
        )
        images.append(_image(last, go, found))
    if last is None:
        raise PropError("platforms must name at least one, got none")
    digest = layout.write(images)
    size = sum(path.stat().st_size for path in last.model.values())
    return Written(digest, last.built.version, size)


def _check_python(base: Base, python: str) -> None:
    version = base.variables.get(_PYTHON, python)
    if version != python and not version.startswith(f"{python}."):
        raise PropError(f"python must be that of the base, {version}, got '{python}'")


def _image(route: PackagedRoute, architecture: str, base: Base) -> Image:
    layers = (("packages", route.packages), ("model", route.model), ("code", route.code))
    manifest = route.built.manifest
    settings: dict[str, Any] = {
        "User": f"{USER}:{USER}",
        "WorkingDir": f"/{ROOT}",
        "Entrypoint": ["python3", "-m", "inference_runtime.serving"],
        "Cmd": [],
        "ExposedPorts": {f"{PORT}/tcp": {}},
        "StopSignal": "SIGTERM",
        "Env": {
            **route.variables,
            "PYTHONPATH": f"/{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "LAMBDA_TASK_ROOT": f"/{ROOT}",
        },
        "Labels": {
            "org.opencontainers.image.title": manifest.name,
            "org.opencontainers.image.version": route.built.version,
        },
    }
    return Image(
        architecture,
        base,
        [(what, {f"{ROOT}/{name}": content for name, content in files.items()}) for what, files in layers],
        settings,
    )
