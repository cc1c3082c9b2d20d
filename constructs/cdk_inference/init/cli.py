"""The command line: ``python -m cdk_inference``.

Exit codes: 0 the project is written, 1 something failed, 2 wrong usage.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from cdk_inference.errors import InferenceError
from cdk_inference.init.names import project_name
from cdk_inference.init.project import project_around, starter_project
from cdk_inference.init.sources.inspect import inspect

OTHERS = {
    "local": "deploy to an embedded AWS on this machine, upload objects, and see what became of them",
    "stage": "run one stage with a file",
    "model": "build models, judge them, and keep them in a registry",
    "review": "see what a change of the app means before it is deployed",
    "simulation": "see what a load takes, costs and breaks first",
    "bundling.sbom": "list what the functions contain",
    "backfill": "score objects that are in the bucket already",
    "release": "see how a release is doing, promote it, or abort it",
    "audit": "ask an audit log",
    "retraining": "label objects, and train a model again",
    "anywhere": "take a route of a pipeline out of AWS",
}
"""The other command lines, by the module to run."""

app = typer.Typer(
    help="AWS CDK constructs for event-driven ML inference.",
    epilog="\n\n".join(f"python -m cdk_inference.{name}: {says}" for name, says in OTHERS.items()),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1


@app.callback()
def root() -> None:
    """AWS CDK constructs for event-driven ML inference."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write it; it may be new.", file_okay=False)] = Path(),
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Your model: an .onnx, .pt2 or .joblib file, hf:NAME, hf:./FOLDER or timm:NAME. "
            "By default, a small network that tells shapes apart.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of model and stack, by default the folder's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write a project that synthesizes and deploys at once: recipe, data, app, test and workflows."""
    named = project_name(name, folder)
    project = starter_project(named) if source is None else project_around(named, inspect(source))
    project.write(folder, force=force)
    for note in project.notes:
        print(f"note: {note}")  # noqa: T201
    for todo in project.todos:
        print(f"to do: {todo}")  # noqa: T201
    print(f"wrote {len(project.files)} files to {folder}; README.md says what they are. Now run:\n")  # noqa: T201
    for line in (
        *([] if folder.samefile(Path()) else [f"cd {shlex.quote(os.fspath(folder))}"]),
        "python -m cdk_inference.local deploy",
        project.make_sample,
        f"python -m cdk_inference.local put {project.sample} --wait",
    ):
        print(f"  {line}")  # noqa: T201


def main() -> None:
    """Run the command line."""
    try:
        app()
    except InferenceError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(_FAILED)
