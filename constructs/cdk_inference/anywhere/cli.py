"""The command line: ``python -m cdk_inference.anywhere``.

Exit codes: 0 it is written, 1 something failed, 2 wrong usage.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdk_inference.common.platform import LambdaPlatform
from cdk_inference.errors import InferenceError, PropError
from cdk_inference.stage.apps import pipeline_of

if TYPE_CHECKING:
    from cdk_inference.edge.component import EdgeComponent
    from cdk_inference.pipeline.operated import OperatedPipeline

app = typer.Typer(
    help="Take a route of a pipeline out of AWS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1
_BASE = "scratch"

AppFile = Annotated[Path, typer.Argument(metavar="APP", help="The file that makes the app, such as app.py.")]
Output = Annotated[Path, typer.Option(help="Folder to write.")]
PipelinePath = Annotated[str | None, typer.Option(help="Path of the pipeline. Default: the only one.")]
RouteName = Annotated[str | None, typer.Option(help="Route of the pipeline. Default: the only one.")]
Platforms = Annotated[str, typer.Option("--platform", help="Platforms, with commas between them.")]
BaseFolder = Annotated[str, typer.Option("--base", help="OCI layout of the base image, or scratch.")]
Python = Annotated[str, typer.Option(help="Version of Python in the base image.")]
Manifests = Annotated[Path | None, typer.Option(help="Folder for manifests, which need --image-name.")]
ImageName = Annotated[str | None, typer.Option(help="Where you push the image: registry/name, without a tag.")]
Name = Annotated[str, typer.Option(help="Name of the workload in the manifests.")]
Store = Annotated[str | None, typer.Option(help="Store of the objects: s3, gs or az. Default: events bring the data.")]
Buckets = Annotated[list[str] | None, typer.Option(help="A bucket that the server reads; more than once for several.")]
Sink = Annotated[str, typer.Option(help="Store of the rows: dynamodb, postgres or stdout.")]
Variables = Annotated[
    list[str] | None, typer.Option(help="A variable of the server in the manifests, as NAME=value; for several, again.")
]
Table = Annotated[str | None, typer.Option(help="Table of the rows.")]
Architecture = Annotated[str, typer.Option(help="That of the device: arm64 or x86_64.")]
Component = Annotated[str | None, typer.Option(help="Name of the component. Default: the only one.")]
ModelSource = Annotated[Path, typer.Argument(metavar="MODEL", help="Recipe, or folder of a built model.")]
Library = Annotated[Path, typer.Option(help="Folder of the npm package onnxruntime-web.")]
Labels = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="File with the names of the classes, one a line.")
]
Wheels = Annotated[
    str | None, typer.Option(help="Platform of the wheels, as uv names it. Default: what glibc 2.34 loads.")
]


@app.command()
def image(
    file: AppFile,
    output: Output,
    pipeline: PipelinePath = None,
    route: RouteName = None,
    platform: Platforms = "linux/amd64",
    base: BaseFolder = _BASE,
    python: Python = LambdaPlatform.python,
    wheels: Wheels = None,
    manifests: Manifests = None,
    image_name: ImageName = None,
    name: Name = "inference",
    object_store: Store = None,
    bucket: Buckets = None,
    result_sink: Sink = "stdout",
    results_table: Table = None,
    variable: Variables = None,
) -> None:
    """Write a container image with the server, the stages and the model, without Docker.

    The base is the layout of an image with glibc and Python, such as skopeo copy docker://python:3.14-slim oci:base.
    With --manifests, the files that deploy it on Kubernetes, Knative, Cloud Run and Azure Container Apps are written.
    """
    if (manifests is None) != (image_name is None):
        raise typer.BadParameter("--manifests and --image-name go together")
    more = dict(_assignment(text) for text in variable or ())
    with redirect_stdout(sys.stderr):  # of the app
        found = pipeline_of(file, pipeline)
        from cdk_inference.anywhere.image import write_image  # noqa: PLC0415 - it loads AWS CDK, as `pipeline_of` does

        written = write_image(
            found,
            output,
            platforms=platform.split(","),
            base=None if base == _BASE else Path(base),
            python=python,
            route=route,
            wheels=wheels,
        )
    typer.echo(f"{output}: {written.digest}")
    if manifests is None or image_name is None:
        return
    from cdk_inference.anywhere.manifests import Deployment, write_manifests  # noqa: PLC0415 - it loads PyYAML

    deployment = Deployment(
        name=name,
        image=image_name,
        digest=written.digest,
        model_bytes=written.model_bytes,
        store=object_store,
        buckets=bucket or (),
        sink=result_sink,
        table=results_table,
        more=more,
    )
    for path in write_manifests(manifests, deployment):
        typer.echo(path)


@app.command()
def device(
    file: AppFile,
    output: Output,
    architecture: Architecture = "arm64",
    pipeline: PipelinePath = None,
    component: Component = None,
) -> None:
    """Write what installs a component of pipeline.add_edge on a device without Greengrass, and runs it by systemd."""
    with redirect_stdout(sys.stderr):  # of the app
        found = component_of(pipeline_of(file, pipeline), component)
        written = found.write_installation(output, architecture)  # type: ignore[arg-type] # it refuses another one
    for path in written:
        typer.echo(path)


def component_of(pipeline: OperatedPipeline, name: str | None = None) -> EdgeComponent:
    """Return a component of a pipeline.

    Parameters
    ----------
    pipeline
        The pipeline.
    name
        The name of the component. Default: the only one.

    Raises
    ------
    PropError
        There is none of that name, or there are several.
    """
    found = {each.component_name: each for each in pipeline.edges}
    if name is None and len(found) == 1:
        (name,) = found
    if name is None or name not in found:
        known = " or ".join(map(repr, found)) or "made by pipeline.add_edge"
        raise PropError(f"component must be {known}, got {name!r}")
    return found[name]


@app.command()
def web(
    model: ModelSource,
    output: Output,
    onnxruntime_web: Library,
    labels: Labels = None,
) -> None:
    """Write a page that runs a model in the browser, with everything that it loads, for any server of static files."""
    from cdk_inference.anywhere.web.export import write_page  # noqa: PLC0415 - not for images
    from cdk_inference.testing.model import LocalModel  # noqa: PLC0415 - it imports numpy

    names = None if labels is None else tuple(labels.read_text(encoding="utf-8").splitlines())
    # Models for x86_64 are exact on all CPUs.
    found = LocalModel.of(model, architecture="x86_64")
    for path in write_page(found.folder, found.manifest, output, library=onnxruntime_web, labels=names):
        typer.echo(path)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--variable must be of the form NAME=value, got {text!r}")
    return name, value


def main() -> None:
    """Run the command line: one line for our own errors."""
    try:
        app()
    except InferenceError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(_FAILED)
