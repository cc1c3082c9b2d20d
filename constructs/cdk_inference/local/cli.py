"""The command line: ``python -m cdk_inference.local``.

Exit codes: 0 all is well, 1 something failed or did not succeed, 2 wrong usage, 3 nothing is deployed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from botocore.exceptions import ClientError
from rich.console import Console

from cdk_inference.common.escaping import clean_lines
from cdk_inference.costs.quantities import plural
from cdk_inference.errors import InferenceError
from cdk_inference.local import aws
from cdk_inference.local.background import Background, NothingDeployedError
from cdk_inference.local.cdk import require_app
from cdk_inference.local.emulator.parts import LATE_MS
from cdk_inference.local.errors import LocalError
from cdk_inference.local.failures import FailureFeed
from cdk_inference.local.steps import Steps
from cdk_inference.local.tables import all_results, one_result
from cdk_inference.local.uploads import SUCCEEDED, Outcome
from cdk_inference.local.watch import Change, Watch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cdk_inference.local.cloud import Cloud

app = typer.Typer(
    help="Run a CDK app on an embedded AWS on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1
_NOTHING_DEPLOYED = 3
_FOLLOW_SECONDS = 1.0

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

Project = Annotated[Path, typer.Option(help="Folder of the app.", file_okay=False, exists=True)]
PipelineName = Annotated[str | None, typer.Option(help="Name of the pipeline, if there are several.")]
AppCommand = Annotated[
    str | None,
    typer.Option("--app", help="Command that runs the app, by default the one in cdk.json. Or a cloud assembly."),
]
Context = Annotated[list[str] | None, typer.Option("--context", "-c", help="Context value, as key=value.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show all output of the CDK CLI.")]
AwsTiming = Annotated[
    bool, typer.Option("--aws-timing", help="Wait as long as AWS before something is tried again, not for a second.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command()
def deploy(
    stacks: Annotated[list[str] | None, typer.Argument(help="Stacks, all by default.")] = None,
    app_command: AppCommand = None,
    context: Context = None,
    project: Project = Path(),
    verbose: Verbose = False,
    aws_timing: AwsTiming = False,
) -> None:
    """Deploy the app, or its changes, into the embedded AWS, which then runs until destroy."""
    values = _context(context or [])
    require_app(project.resolve(), app_command)
    background = Background(project)
    with Steps(_err) as steps:
        if not background.running():
            steps.begin("starting the embedded AWS")
        cloud, started = background.start(aws_timing=aws_timing)
        try:
            names = cloud.deploy(
                project,
                app=app_command,
                context=values,
                stacks=stacks or (),
                on_line=(lambda line: _err.print(line, markup=False)) if verbose else steps.line,
                on_step=steps.begin,
            )
        except BaseException:
            if started and background.failure() is None:  # otherwise the log of what failed stays
                background.stop()
            raise
    _out.print(f"deployed {', '.join(names)} to {cloud.endpoint}", markup=False)


@app.command()
def watch(
    app_command: AppCommand = None,
    context: Context = None,
    project: Project = Path(),
    verbose: Verbose = False,
    aws_timing: AwsTiming = False,
) -> None:
    """Deploy the app; then put stage code live as you save it, and deploy all other changes, until interrupted."""
    values = _context(context or [])
    require_app(project.resolve(), app_command)
    cloud, _ = Background(project).start(aws_timing=aws_timing)
    stopping = threading.Event()
    telling = threading.Thread(target=_tell_failures, args=(cloud, stopping), daemon=True)
    telling.start()
    try:
        Watch(project, cloud, app_command, context=values).run(
            stopping,
            lambda change: _out.print(_told(change), markup=False),
            on_line=(lambda line: _err.print(line, markup=False)) if verbose else None,
        )
    except KeyboardInterrupt:
        _out.print("stopped watching; the embedded AWS goes on until destroy")
    finally:
        stopping.set()
        telling.join()


@app.command()
def put(
    files: Annotated[list[Path], typer.Argument(help="Files to upload to the inbox.")],
    key: Annotated[str | None, typer.Option(help="Key of the object, if there is one file.")] = None,
    prefix: Annotated[str | None, typer.Option(help="What keys start with, by default the pipeline's prefix.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until each has a row or is a dead letter.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 120.0,
    as_json: Json = False,
    pipeline: PipelineName = None,
    project: Project = Path(),
) -> None:
    """Upload files. With --wait, fail unless each gets a SUCCEEDED row."""
    cloud = Background(project).cloud()
    uploads = cloud.put(*files, key=key, prefix=prefix, pipeline=pipeline)
    if not wait:
        for upload in uploads:
            print(f"s3://{upload.bucket}/{upload.key}")  # noqa: T201
        return
    with Steps(_err) as steps:
        steps.begin(f"waiting for {plural(len(uploads), 'result')}")
        outcomes = cloud.wait_for(
            uploads, timeout=timeout, pipeline=pipeline, on_line=steps.line, on_failure=steps.tell
        )
    _show(outcomes, as_json=as_json)
    if any(outcome.status != SUCCEEDED for outcome in outcomes):
        raise typer.Exit(_FAILED)


@app.command()
def results(
    key: Annotated[str | None, typer.Argument(help="Key of an object: all of its row, and its history.")] = None,
    as_json: Json = False,
    pipeline: PipelineName = None,
    project: Project = Path(),
) -> None:
    """Show what became of every object, or of one: rows and dead letters."""
    found = Background(project).cloud().pipeline(pipeline)
    if key is None:
        _show(found.outcomes(), as_json=as_json)
        return
    history = found.history(key)
    if as_json:
        for outcome in history:
            print(outcome.as_json(whole=True))  # noqa: T201
        return
    for table in one_result(history):
        _out.print(table, soft_wrap=False)


@app.command()
def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    project: Project = Path(),
) -> None:
    """Print the log events of the functions, what the pipes could not do, and errors of the emulator."""
    background = Background(project)
    cloud = background.cloud()
    seen: set[tuple[int, str, str]] = set()
    since = 0
    while True:
        found = [*cloud.logs(since=since), *background.events(since=since)]
        events = sorted((event for event in found if event not in seen), key=lambda event: event[0])
        for at, function, message in events:
            moment = datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")
            print(f"{moment} {function} {message.rstrip()}", flush=True)  # noqa: T201
        if not follow:
            return
        since = max([since, *(at - LATE_MS for at, _, _ in events)])
        seen = {event for event in seen | set(events) if event[0] >= since}
        time.sleep(_FOLLOW_SECONDS)


@app.command()
def console(
    port: Annotated[int, typer.Option(help="Port to listen on, by default a free one.", min=0, max=65535)] = 0,
    pipeline: PipelineName = None,
    edits: Annotated[bool, typer.Option("--watch/--no-watch", help="Put stage code live as you save it.")] = True,
    project: Project = Path(),
) -> None:
    """Show what the pipelines do on a page in your browser, until you press Ctrl-C."""
    from cdk_inference.local.console.server import Console as Page  # noqa: PLC0415 - others need no web server

    background = Background(project)
    cloud = background.cloud()
    names = sorted([*cloud.pipelines(), *cloud.text_streams()])
    if pipeline is not None and pipeline not in names:
        raise LocalError(f"pipeline must be one of {', '.join(names) or 'none'}, got {pipeline!r}")
    with Page(
        background.cloud,
        pipeline=pipeline,
        port=port,
        project=project.resolve() if edits else None,
    ) as page:
        print(page.url, flush=True)  # noqa: T201
        _err.print("Open this address in your browser; it works as long as this runs. Ctrl-C ends it.", markup=False)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


@app.command()
def env(project: Project = Path()) -> None:
    """Print shell commands that point the AWS CLI and SDKs at the embedded AWS, with its key: eval "$(... env)"."""
    cloud = Background(project).cloud()
    wanted = aws.environment(cloud.endpoint, env=cloud.env)
    for name in sorted(name for name in os.environ if name.startswith("AWS_") and name not in wanted):
        print(f"unset {name}")  # noqa: T201
    for name, value in sorted(wanted.items()):
        if os.environ.get(name) != value:
            print(f"export {name}={shlex.quote(value)}")  # noqa: T201


@app.command()
def destroy(project: Project = Path()) -> None:
    """Stop the embedded AWS, with everything in it, and remove its files."""
    stopped = Background(project).stop()
    _out.print("destroyed" if stopped else "nothing was deployed")


@app.command(hidden=True)
def serve(project: Project = Path(), aws_timing: AwsTiming = False) -> None:
    """Be the background process of deploy."""
    Background(project).serve(aws_timing=aws_timing)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as an exception, which cleans up
    try:
        app()
    except NothingDeployedError as error:
        _fail(error, _NOTHING_DEPLOYED)
    except InferenceError as error:
        _fail(error, _FAILED)


def _told(change: Change) -> str:
    """Return a line about a change, with the time of day."""
    match change.kind:
        case "live" | "deployed":
            said = f"{change.message} after {change.seconds:.1f} s"
        case "deploying":
            said = f"deploying: {change.message}"
        case "failed":
            said = f"what was live before stays live: {change.message}"
        case _:
            said = change.message
    return _at_now(said)


def _at_now(said: str) -> str:
    return f"{datetime.now().astimezone():%H:%M:%S} {clean_lines(said)}"


def _tell_failures(cloud: Cloud, stopping: threading.Event) -> None:
    """Print errors of user code as soon as they are logged, until told to stop."""
    feed = FailureFeed(cloud, round(time.time() * 1000))
    while not stopping.wait(_FOLLOW_SECONDS):
        try:
            for failure in feed.new():
                _out.print(_at_now(str(failure)), markup=False)
        except (LocalError, ClientError):
            continue  # whoever watches tells if the embedded AWS has ended; a stack may be deployed just now


def _fail(error: Exception, code: int) -> None:
    _err.print(f"error: {error}", markup=False)
    sys.exit(code)


def _context(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"context value '{pair}' is not of the form key=value")
    return dict(pair.split("=", 1) for pair in pairs)


def _show(outcomes: Iterable[Outcome], *, as_json: bool) -> None:
    if as_json:
        for outcome in outcomes:
            print(outcome.as_json())  # noqa: T201
        return
    _out.print(all_results(outcomes), soft_wrap=False)
