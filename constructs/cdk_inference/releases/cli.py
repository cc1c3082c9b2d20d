"""The command line: ``python -m cdk_inference.release``.

Exit codes: 0 all is well, 1 something failed or the release was aborted, 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cdk_inference.common.sessions import open_session
from cdk_inference.errors import InferenceError
from cdk_inference.releases.deployed import ABORTED, DeployedRelease, Status

app = typer.Typer(
    help="See how a release is doing, promote its candidate, or abort it. AWS's own environment variables apply.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

StackName = Annotated[str, typer.Argument(help="Name of the stack.")]
PipelineName = Annotated[str | None, typer.Option(help="Path of the pipeline, if there are several.")]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Profile = Annotated[str | None, typer.Option(help="Profile of the AWS configuration.")]
Region = Annotated[str | None, typer.Option(help="Region of the stack.")]


@app.command()
def status(
    stack: StackName,
    pipeline: PipelineName = None,
    as_json: Json = False,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Show the share of the candidate, what was counted, and every decision with its evidence."""
    found = _release(stack, pipeline, profile, region).status()
    _show(found, as_json=as_json)
    if found.status == ABORTED:
        raise typer.Exit(_FAILED)


@app.command()
def promote(
    stack: StackName,
    reason: Reason = "promoted by an operator",
    pipeline: PipelineName = None,
    as_json: Json = False,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Give the candidate all objects now, and end the release."""
    _show(_release(stack, pipeline, profile, region).promote(reason), as_json=as_json)


@app.command()
def abort(
    stack: StackName,
    reason: Reason = "aborted by an operator",
    pipeline: PipelineName = None,
    as_json: Json = False,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Give the stable model all objects now, and end the release; also after it was promoted."""
    _show(_release(stack, pipeline, profile, region).abort(reason), as_json=as_json)


def _release(stack: str, pipeline: str | None, profile: str | None, region: str | None) -> DeployedRelease:
    return DeployedRelease.find(open_session(profile, region), stack, pipeline)


def _show(found: Status, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(found)))  # noqa: T201
        return
    _out.print(f"release {found.release} of {found.pipeline}: {found.status}", markup=False)
    for arm, facts, share in (
        ("stable", found.stable, 100 - found.share),
        ("candidate", found.candidate, found.share),
    ):
        _out.print(f"  {arm:9} {facts['model']} {facts['version']}, {share:g} % of the objects", markup=False)
    for record, counts in found.counts.items():
        counted = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in sorted(counts.items()))
        _out.print(f"  {record:9} {counted}", markup=False)
    if found.history:
        _out.print(_history(found.history))


def _history(entries: list[dict[str, Any]]) -> Table:
    table = Table("at", "by", "status", "share", "reason")
    for entry in entries:
        at = datetime.fromtimestamp(entry["at"] / 1000, UTC).isoformat(timespec="seconds")
        cells = (at, entry["by"], entry["status"], f"{entry['share']:g} %", entry["reason"])
        table.add_row(*map(Text, cells))
    return table


def main() -> None:
    """Run the command line: one line for our own errors, and for those of AWS."""
    try:
        app()
    except (InferenceError, BotoCoreError, ClientError) as error:
        _err.print(f"error: {error}", markup=False)
        sys.exit(_FAILED)
