"""The command line: ``python -m cdk_inference.backfill``.

Exit codes: 0 all is well, 1 something failed or was not confirmed, 2 wrong usage.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from cdk_inference.backfill.deployed import BackfillError, DeployedBackfill, Selection, Status, to_json
from cdk_inference.common.sessions import open_session
from cdk_inference.costs.quantities import plural
from cdk_inference.errors import InferenceError

app = typer.Typer(
    help="Score objects that are in the bucket already. AWS's own environment variables apply.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1
_CENT = 0.01
_AGO = re.compile(r"(\d{1,5})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

StackName = Annotated[str, typer.Argument(help="Name of the stack.")]
Prefix = Annotated[str | None, typer.Option(help="The objects under it. Default: all that the trigger takes.")]
KeyList = Annotated[
    Path | None, typer.Option("--list", help="The objects whose keys are in this file, one in a line.", exists=True)
]
Inventory = Annotated[str | None, typer.Option(help="The objects of an S3 Inventory: s3://…/manifest.json.")]
Since = Annotated[str | None, typer.Option(help="Only what was modified since: 30d, 12h, 4w, or 2026-11-01.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Skip only what this version has scored. Default: all models of the pipeline."),
]
Rejected = Annotated[bool, typer.Option("--rejected", help="Score objects that were rejected again too.")]
Rate = Annotated[float | None, typer.Option(help="Most objects a second.", min=0.01)]
Concurrency = Annotated[int, typer.Option(help="Most batches at the same time.", min=1, max=10_000)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")]
Execution = Annotated[str | None, typer.Option(help="Name of the backfill. Default: the latest one.")]
PipelineName = Annotated[str | None, typer.Option(help="Path of the pipeline, if there are several.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Profile = Annotated[str | None, typer.Option(help="Profile of the AWS configuration.")]
Region = Annotated[str | None, typer.Option(help="Region of the stack.")]


@app.command()
def start(
    stack: StackName,
    prefix: Prefix = None,
    keys: KeyList = None,
    inventory: Inventory = None,
    since: Since = None,
    model: Models = None,
    rejected: Rejected = False,
    rate: Rate = None,
    max_concurrency: Concurrency = 10,
    yes: Yes = False,
    pipeline: PipelineName = None,
    as_json: Json = False,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Score objects that have no row of the pipeline's models yet, after saying what that costs at most.

    Start it again to go on with what is left.
    """
    if sum(one is not None for one in (prefix, keys, inventory)) > 1:
        raise typer.BadParameter("--prefix, --list and --inventory exclude each other")
    if since is not None and keys is not None:
        raise typer.BadParameter("--since goes with --prefix or --inventory: a list says itself which objects")
    oldest = None if since is None else _time(since)
    backfill = _backfill(stack, pipeline, profile, region)
    if keys is not None:
        chosen = backfill.listed(keys)
    elif inventory is not None:
        chosen = backfill.inventory(inventory)
    else:
        chosen = backfill.under(prefix, oldest)
    if chosen.objects == 0:
        _err.print("no object matches", markup=False)
        raise typer.Exit(_FAILED)
    _err.print(_cost(backfill, chosen), markup=False)
    if not yes:
        typer.confirm("Start?", abort=True, err=True)
    name = backfill.start(
        chosen,
        max_concurrency=max_concurrency,
        rate=rate,
        since=oldest if inventory is not None else None,
        models=model or (),
        again=["REJECTED"] if rejected else (),
    )
    _show(backfill.status(name), as_json=as_json)


@app.command()
def status(
    stack: StackName,
    execution: Execution = None,
    pipeline: PipelineName = None,
    as_json: Json = False,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Show how far a backfill is, and what became of the objects once it has ended."""
    found = _backfill(stack, pipeline, profile, region).status(execution)
    _show(found, as_json=as_json)
    if found.status in {"FAILED", "TIMED_OUT"}:
        raise typer.Exit(_FAILED)


@app.command()
def stop(
    stack: StackName,
    execution: Execution = None,
    pipeline: PipelineName = None,
    as_json: Json = False,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Stop the backfill that runs; what is scored stays. Start another one to go on."""
    _show(_backfill(stack, pipeline, profile, region).stop(execution), as_json=as_json)


def _backfill(stack: str, pipeline: str | None, profile: str | None, region: str | None) -> DeployedBackfill:
    return DeployedBackfill.find(open_session(profile, region), stack, pipeline)


def _time(since: str) -> datetime:
    if ago := _AGO.fullmatch(since):
        return datetime.now(UTC) - timedelta(hours=int(ago[1]) * _HOURS[ago[2]])
    try:
        found = datetime.fromisoformat(since)
    except ValueError as error:
        raise BackfillError(f"since must be a time such as 30d, 12h or 2026-11-01, got '{since}'") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _cost(backfill: DeployedBackfill, chosen: Selection) -> str:
    """Say what the objects cost at most, and at least."""
    prices = backfill.prices
    number = 1_000_000 if chosen.objects is None else chosen.objects
    most, least = prices.usd(number, number), number * prices.looked_at / 1e6
    about = "objects of an inventory, each million" if chosen.objects is None else plural(number, "object")
    scored = "a sum that is not known, as the latency of a model is not," if most is None else f"about {_usd(most)}"
    return (
        f"{about} of s3://{backfill.bucket}: {scored} if all have to be scored, about {_usd(least)} if none has to be "
        f"(list prices of {prices.region}, {prices.as_of})"
    )


def _usd(value: float) -> str:
    return f"{value:,.2f} USD" if value >= _CENT else "0.01 USD"


def _show(found: Status, *, as_json: bool) -> None:
    if as_json:
        print(to_json(found))  # noqa: T201
        return
    ended = "" if found.stopped_at is None else f", ended {found.stopped_at}"
    _out.print(f"{found.name}: {found.status}, started {found.started_at}{ended}", markup=False)
    for title, counts in (("objects", found.objects), ("of these", found.outcomes)):
        if counts:
            said = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in counts.items())
            _out.print(f"  {title:8} {said}", markup=False)
    if found.cause:
        _out.print(f"  {found.cause}", markup=False)


def main() -> None:
    """Run the command line: one line for our own errors, and for those of AWS."""
    try:
        app()
    except (InferenceError, BotoCoreError, ClientError) as error:
        _err.print(f"error: {error}", markup=False)
        sys.exit(_FAILED)
