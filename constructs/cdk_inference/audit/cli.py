"""The command line: ``python -m cdk_inference.audit``.

Exit codes: 0 all is well, 1 something failed or nothing was found, 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from cdk_inference.audit.deployed import DeployedLog
from cdk_inference.common.sessions import open_session
from cdk_inference.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Iterable

app = typer.Typer(
    help="Ask an audit log what was answered, deployed and decided. AWS's own environment variables apply.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1
_DAYS = 30
_FORMATS = ["%Y-%m-%d"]

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

StackName = Annotated[str, typer.Argument(help="Name of the stack that has the log.")]
ObjectName = Annotated[str, typer.Argument(metavar="BUCKET/KEY", help="The object.")]
Since = Annotated[datetime | None, typer.Option(formats=_FORMATS, help="First day, in UTC. Default: 30 days before.")]
Until = Annotated[datetime | None, typer.Option(formats=_FORMATS, help="Last day, in UTC. Default: today.")]
Log = Annotated[str | None, typer.Option(help="Path of the log, if the stack has several.")]
Pipeline = Annotated[str | None, typer.Option(help="Only of this pipeline, as metrics name it.")]
Type = Annotated[str | None, typer.Option("--type", help="Only of this type, such as 'Drift Verdict'.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on each line.")]
Profile = Annotated[str | None, typer.Option(help="Profile of the AWS configuration.")]
Region = Annotated[str | None, typer.Option(help="Region of the stack.")]


@app.command("object")
def about(
    stack: StackName,
    name: ObjectName,
    since: Since = None,
    until: Until = None,
    log: Log = None,
    pipeline: Pipeline = None,
    as_json: Json = False,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Show what was answered for an object, by which model and when."""
    _show(_log(stack, log, profile, region).about(name, *_days(since, until), pipeline=pipeline), as_json=as_json)


@app.command()
def records(
    stack: StackName,
    since: Since = None,
    until: Until = None,
    log: Log = None,
    pipeline: Pipeline = None,
    kind: Type = None,
    as_json: Json = False,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Show all records of some days, or those of a type: answers, models, deployments, decisions or verdicts."""
    found = _log(stack, log, profile, region).records(*_days(since, until), pipeline=pipeline)
    _show((one for one in found if kind in (None, one["type"])), as_json=as_json)


def _log(stack: str, log: str | None, profile: str | None, region: str | None) -> DeployedLog:
    return DeployedLog.find(open_session(profile, region), stack, log)


def _days(since: datetime | None, until: datetime | None) -> tuple[date, date]:
    last = until.date() if until is not None else datetime.now(UTC).date()
    return since.date() if since is not None else last - timedelta(days=_DAYS), last


def _show(found: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    number = 0
    for number, one in enumerate(found, 1):  # noqa: B007 - the last number counts
        if as_json:
            print(json.dumps(one, sort_keys=True))  # noqa: T201
        else:
            _out.print(_line(one), markup=False)
    if not number:
        _err.print("no records were found", markup=False)
        raise typer.Exit(_FAILED)


def _line(one: dict[str, Any]) -> str:
    said = _SAID.get(one["type"], _everything)(one)
    return f"{one['time']}  {one['type']}  {one['pipeline']}  {said}"


def _everything(one: dict[str, Any]) -> str:
    return json.dumps(one["detail"], sort_keys=True)


def _answer(one: dict[str, Any]) -> str:
    return _parts(one, "status", "model_version", "route", "variant", "version", "object", "answer")


def _decision(one: dict[str, Any]) -> str:
    detail = one["detail"]
    parts = _parts(detail, "release", "stable", "candidate", "status", "share")
    return f"{parts} {_parts(detail['decision'], 'by', 'reason')}"


def _verdict(one: dict[str, Any]) -> str:
    drifted = ", ".join(each["name"] for each in one["detail"].get("statistics", ()) if each["drifted"])
    parts = _parts(one["detail"], "verdict", "window", "objects", "drift", "model_version")
    return f"{parts} drifted={drifted or 'none'}"


def _change(one: dict[str, Any]) -> str:
    before, models = one["detail"]["before"], one["detail"]["models"]
    versions = {
        route: tuple(each.get(route, {}).get("version", "none") for each in (before, models))
        for route in sorted({*before, *models})
    }
    return " ".join(f"{route}={old}→{new}" for route, (old, new) in versions.items() if old != new)


_SAID = {
    "Inference Result": _answer,
    "Release Decision": _decision,
    "Drift Verdict": _verdict,
    "Model Change": _change,
}
"""The text for each type of record; ``--json`` has everything."""


def _parts(facts: dict[str, Any], *names: str) -> str:
    return " ".join(f"{name}={facts[name]}" for name in names if name in facts)


def main() -> None:
    """Run the command line: one line for our own errors, and for those of AWS."""
    try:
        app()
    except (InferenceError, BotoCoreError, ClientError) as error:
        _err.print(f"error: {error}", markup=False)
        sys.exit(_FAILED)
