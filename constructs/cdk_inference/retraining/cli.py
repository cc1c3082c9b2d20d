"""The command line: ``python -m cdk_inference.retraining``.

``train`` and ``build`` run in the jobs of a retraining. The others are for people.

Exit codes: 0 all is well, 1 something failed, a label was refused, or the last run failed, 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import boto3
import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cdk_inference.common.escaping import clean
from cdk_inference.common.sessions import open_session
from cdk_inference.errors import InferenceError
from cdk_inference.model.recipe.targets import DEFAULT_ARCHITECTURE, Architecture
from cdk_inference.retraining.deployed import FAILED, DeployedRetraining
from cdk_inference.retraining.job import Job, Run
from inference_runtime.retraining.reports import LONGEST_REASON

app = typer.Typer(
    help="Label objects, start a run, and see what became of it. AWS's own environment variables apply.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILURE = 1

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

StackName = Annotated[str, typer.Argument(help="Name of the stack.")]
PipelineName = Annotated[str | None, typer.Option(help="Path of the pipeline, if there are several.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Profile = Annotated[str | None, typer.Option(help="Profile of the AWS configuration.")]
Region = Annotated[str | None, typer.Option(help="Region of the stack.")]


@app.command()
def label(
    stack: StackName,
    key: Annotated[str, typer.Argument(help="Key of the object.")],
    name: Annotated[str, typer.Argument(metavar="LABEL", help="The class that it belongs to.")],
    by: Annotated[str, typer.Option(help="Who says so.")],
    pipeline: PipelineName = None,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Label an object, and say at once if the label is refused."""
    taken = _deployed(stack, pipeline, profile, region).label([{"key": key, "label": name, "by": by}])
    for refused in taken.rejected:
        _err.print(f"refused: {refused['reason']}", markup=False)
    if taken.rejected:
        raise typer.Exit(_FAILURE)
    _out.print("accepted" if taken.accepted else "it has this label already")


@app.command()
def start(stack: StackName, pipeline: PipelineName = None, profile: Profile = None, region: Region = None) -> None:
    """Start a run now."""
    _out.print(_deployed(stack, pipeline, profile, region).start(), markup=False)


@app.command()
def status(
    stack: StackName,
    pipeline: PipelineName = None,
    as_json: Json = False,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Show how many labels there are, who has the lock, and what became of each run."""
    found = _deployed(stack, pipeline, profile, region).status()
    if as_json:
        print(json.dumps(asdict(found)))  # noqa: T201
    else:
        _out.print(f"{found.accepted} labels, {found.new} of them new; {found.runs_this_month} runs this month")
        if found.deferred:
            _out.print(f"a run waits for the month after {found.deferred}, whose budget is used", markup=False)
        _out.print(f"a run goes on: {found.holder}" if found.holder else "no run goes on", markup=False)
        table = Table("run", "started", "by", "labels", "status", "version", "reason")
        for run in found.runs:
            cells = (run.run, run.started_at[:19], run.by, str(run.labels), run.status, run.version, run.reason)
            table.add_row(*(Text(clean(cell, LONGEST_REASON)) for cell in cells))  # jobs say the reason
        _out.print(table)
    if found.runs and found.runs[-1].status == FAILED:
        raise typer.Exit(_FAILURE)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    weights: Annotated[str, typer.Option(help="Name of the file that the command writes.")] = "weights.safetensors",
) -> None:
    """In a job: fetch labelled objects, run the command after `--`, and upload the weights that it writes."""
    if not context.args:
        raise typer.BadParameter("name the program that trains after --, such as: train -- python train.py")
    trained = _job().train(context.args, weights=weights)
    _out.print(f"trained with {trained.labels} labels: {trained.size} bytes, SHA-256 {trained.sha256}")


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="File that defines RECIPE.")],
    architecture: Annotated[
        Architecture, typer.Option("--architecture", help="CPUs of the functions that run the model.")
    ] = DEFAULT_ARCHITECTURE,
    cache: Annotated[Path | None, typer.Option(help="Cache root, by default the user's.", file_okay=False)] = None,
) -> None:
    """In a job: build a recipe with the new weights. A model that fails its gate is reported, and no error."""
    verdict = _job().build(recipe, architecture=architecture, cache=cache)
    said = f"{verdict.model} {verdict.version}" if verdict.model else verdict.reason
    _out.print(f"{verdict.status}: {said}", markup=False)


def _job() -> Job:
    return Job(Run.from_environment(), boto3.Session().client("s3"))


def _deployed(stack: str, pipeline: str | None, profile: str | None, region: str | None) -> DeployedRetraining:
    return DeployedRetraining.find(open_session(profile, region), stack, pipeline)


def main() -> None:
    """Run the command line: one line for our own errors, and for those of AWS."""
    try:
        app()
    except (InferenceError, BotoCoreError, ClientError) as error:
        _err.print(f"error: {error}", markup=False)
        sys.exit(_FAILURE)
