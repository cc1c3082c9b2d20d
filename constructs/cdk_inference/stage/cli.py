"""The command line: ``python -m cdk_inference.stage``.

Exit codes: 0 there are inputs or a row that succeeded, 1 the stage failed, 2 wrong usage, 3 the row is REJECTED or
FAILED.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdk_inference.errors import InferenceError, PropError
from cdk_inference.model.recipe.targets import DEFAULT_ARCHITECTURE, Architecture
from cdk_inference.stage import report
from cdk_inference.stage.arrays import UNNAMED, read_arrays, write_arrays
from cdk_inference.stage.choice import Kind, chosen, kind_of
from cdk_inference.testing import InProcessPipeline, LocalModel, run_postprocess, run_preprocess
from cdk_inference.testing.objects import DEFAULT_TIMEOUT
from cdk_inference.testing.tracebacks import has_user_frames, user_traceback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference_runtime.tensors.tensor import Array

app = typer.Typer(
    help="Run one stage of a pipeline on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1
_NOT_SUCCEEDED = 3
_STDIN = "-"

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
Timeout = Annotated[float, typer.Option(help="Seconds of the function's invocation.", min=0.1, max=900)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@app.callback()
def stage() -> None:
    """Run one stage of a pipeline on this machine."""


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
    name = key if key is not None else "stdin" if source == _STDIN else Path(source).name
    data = _read(source)
    arrays: Mapping[str, Array] = {}
    with redirect_stdout(sys.stderr):  # standard output belongs to the result
        chosen_stage: Any = chosen(stage, option or ())
        loaded = None if model is None else LocalModel.of(model, architecture=architecture)
        about: dict[str, Any] = {"model": loaded, "key": name, "bucket": bucket, "timeout": timeout}
        if found == "postprocess":
            about["kept"] = _kept(kept)
            outputs = read_arrays(data, source, UNNAMED if loaded is None else loaded.outputs[0].name)
            said = report.of_postprocess(run_postprocess(chosen_stage, outputs, **about))
        elif postprocess is None or loaded is None:
            preprocessed = run_preprocess(chosen_stage, data, keep=keep or (), **about)
            said, arrays = report.of_preprocess(preprocessed), preprocessed.inputs
        else:
            after: Any = chosen(postprocess, postprocess_option or ())
            pipeline = InProcessPipeline(
                model=loaded, preprocess=chosen_stage, postprocess=after, keep=keep or (), timeout=timeout
            )
            scored = pipeline.run(data, key=name, bucket=bucket)
            said, arrays = report.of_pipeline(scored), scored.outputs
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


def _read(source: str) -> bytes:
    if source == _STDIN:
        return sys.stdin.buffer.read()
    path = Path(source)
    if not path.is_file():
        raise PropError(f"input must be an existing file or -, got '{path}'; looked in {Path.cwd()}")
    return path.read_bytes()


def _kept(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text if text is not None else "{}")
    except ValueError as error:
        raise PropError(f"kept must be a JSON object, got {text!r}: {error}") from None
    if not isinstance(found, dict):
        raise PropError(f"kept must be a JSON object, got {text!r}")
    return found


def main() -> None:
    """Run the command line: one line for our own errors, and of others the traceback of the user's code."""
    # The runtime logs what is raised here.
    logging.getLogger("inference_runtime").addHandler(logging.NullHandler())
    try:
        app()
    except InferenceError as error:
        cause = error.__cause__.__cause__ if error.__cause__ is not None else None
        if cause is not None and has_user_frames(cause):
            sys.stderr.write(user_traceback(cause))
        sys.stderr.write(f"error: {error}\n")
        sys.exit(_FAILED)
    except Exception as error:
        sys.stderr.write(user_traceback(error))
        sys.stderr.write("error: the stage failed; in AWS the object is tried again and becomes a dead letter\n")
        sys.exit(_FAILED)
