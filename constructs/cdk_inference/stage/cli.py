"""The command line: ``python -m cdk_inference.stage``.

Exit codes: 0 there are inputs or a row that succeeded, 1 the stage failed, 2 wrong usage, 3 the row is REJECTED or
FAILED.
"""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdk_inference.errors import InferenceError
from cdk_inference.model.recipe.targets import DEFAULT_ARCHITECTURE, Architecture
from cdk_inference.stage import report, running
from cdk_inference.stage.arrays import write_arrays
from cdk_inference.stage.choice import Kind, kind_of
from cdk_inference.testing.objects import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference_runtime.tensors.tensor import Array

app = typer.Typer(
    help="Run one stage of a pipeline, or a whole one, on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1
_NOT_SUCCEEDED = 3

StageName = Annotated[
    str, typer.Argument(metavar="STAGE", help="FILE:FUNCTION, or a built-in stage, such as image or classification.")
]
Input = Annotated[
    str,
    typer.Argument(metavar="INPUT", help="The object; of a postprocessing, its outputs as .npz or .npy. - for stdin."),
]
Options = Annotated[
    list[str] | None, typer.Option("--option", "-o", help="An option of a built-in stage, such as size=224.")
]
StageKind = Annotated[Kind | None, typer.Option(help="Default: by the function's first parameter, data or outputs.")]
Key = Annotated[str | None, typer.Option(help="Key of the object. Default: the name of the file.")]
Bucket = Annotated[str, typer.Option(help="Bucket of the object.")]
Keep = Annotated[list[str] | None, typer.Option(help="A value that preprocessing returns besides the inputs.")]
Kept = Annotated[str | None, typer.Option(help="For a postprocessing: the values that were kept, as JSON.")]
Model = Annotated[
    Path | None, typer.Option(help="Recipe, or folder of a built model, whose inputs or outputs the arrays must be.")
]
Cpu = Annotated[Architecture, typer.Option("--architecture", help="CPUs that a recipe is built for.")]
After = Annotated[
    str | None, typer.Option("--postprocess", help="Run the model too, and then this stage, to make the whole row.")
]
AfterOptions = Annotated[list[str] | None, typer.Option("--postprocess-option", help="An option of that stage.")]
Save = Annotated[
    Path | None, typer.Option(help="Write the inputs, or the model's outputs, to this .npz file.", dir_okay=False)
]
AppFile = Annotated[Path, typer.Argument(metavar="APP", help="The file that makes the app, such as app.py.")]
PipelinePath = Annotated[str | None, typer.Option(help="Path of the pipeline. Default: the only one.")]
RouteName = Annotated[str | None, typer.Option(help="Route of the pipeline. Default: the only one.")]
Explained = Annotated[
    bool, typer.Option("--explain", help="Ask for an explanation, where answers are explained on request.")
]
Timeout = Annotated[float, typer.Option(help="Seconds of the function's invocation.", min=0.1, max=900)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@app.command()
def run(
    stage: StageName,
    source: Input,
    option: Options = None,
    kind: StageKind = None,
    key: Key = None,
    bucket: Bucket = "inbox",
    keep: Keep = None,
    kept: Kept = None,
    model: Model = None,
    architecture: Cpu = DEFAULT_ARCHITECTURE,
    postprocess: After = None,
    postprocess_option: AfterOptions = None,
    save: Save = None,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: Json = False,
) -> None:
    """Run a stage on one object as its function in AWS does: with its checks, messages and time limit.

    Exit codes: 0 there are inputs or a row that succeeded, 1 the stage failed, 2 wrong usage, 3 the row is REJECTED or
    FAILED. A stage that fails makes the object a dead letter in AWS.
    """
    found = kind if kind is not None else kind_of(stage)
    if found == "preprocess":
        _refuse(found, kept=kept)
    else:
        _refuse(found, keep=keep, postprocess=postprocess, postprocess_option=postprocess_option, save=save)
    if postprocess is not None and model is None:
        raise typer.BadParameter("--postprocess needs --model, whose outputs it gets")
    if postprocess is None and postprocess_option:
        raise typer.BadParameter("--postprocess-option needs --postprocess")
    arguments = running.Arguments(
        stage=stage,
        source=source,
        options=option or (),
        kind=found,
        key=key,
        bucket=bucket,
        keep=keep or (),
        kept=kept,
        model=model,
        architecture=architecture,
        postprocess=postprocess,
        postprocess_options=postprocess_option or (),
        timeout=timeout,
    )
    _show(lambda: running.run(arguments), save=save, as_json=as_json)


@app.command()
def pipeline(
    file: AppFile,
    source: Input,
    pipeline: PipelinePath = None,
    route: RouteName = None,
    key: Key = None,
    bucket: Bucket = "inbox",
    explain: Explained = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Run the stages and the model of an app's pipeline on one object, without bundling or deploying anything.

    Exit codes: 0 there is a row that succeeded, 1 a stage failed, 2 wrong usage, 3 the row is REJECTED or FAILED.
    """
    _show(
        lambda: running.run_app(file, source, pipeline, route, key=key, bucket=bucket, explain=explain),
        save=save,
        as_json=as_json,
    )


def _show(run: Callable[[], tuple[dict[str, Any], dict[str, Array]]], *, save: Path | None, as_json: bool) -> None:
    """Show what a run says, and exit by it."""
    try:
        with redirect_stdout(sys.stderr):  # standard output belongs to the result
            said, arrays = run()
    except Exception as error:
        if not as_json:
            raise
        typer.echo(report.as_json(report.of_error(error)))
        raise typer.Exit(_FAILED) from None
    if save is not None and arrays:
        write_arrays(save, arrays)
    if as_json:
        typer.echo(report.as_json(said))
    else:
        for line in report.lines(said):
            typer.echo(line)
    if said["status"] not in (report.READY, "SUCCEEDED"):
        raise typer.Exit(_NOT_SUCCEEDED)


def _refuse(kind: Kind, **given: object) -> None:
    """Refuse options that say nothing for this kind of stage."""
    for name, value in given.items():
        if value:
            raise typer.BadParameter(f"--{name.replace('_', '-')} does not go with a {kind}ing stage")


def main() -> None:
    """Run the command line: one line for our own errors, and of others the traceback of the user's code."""
    # The runtime logs what is raised here.
    logging.getLogger("inference_runtime").addHandler(logging.NullHandler())
    try:
        app()
    except Exception as error:
        said = report.of_error(error)
        failed = "the stage failed; in AWS the object is tried again and becomes a dead letter"
        sys.stderr.write(said["traceback"])
        sys.stderr.write(f"error: {said['reason'] if isinstance(error, InferenceError) else failed}\n")
        sys.exit(_FAILED)
