"""Runs the build process, and shows how far it is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from cdk_inference.common.figures import size
from cdk_inference.common.terminal import PASSES, say
from cdk_inference.errors import ModelBuildError, ModelGateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MISSING_EXTRA = 'building a model needs the "model" extra: pip install "cdk-inference[model]"'

ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # Its official builds report file names and hashes of models: https://github.com/microsoft/onnxruntime/pull/27379
    "ORT_DISABLE_TELEMETRY": "1",
    # Refuses pickles in every torch.load, the factory's own too: who unpickles a file runs what is in it.
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
}

_MORE_MEMORY = "build on a machine with more memory, or with less running next to the build; what is finished is kept; "

_KINDS = {kind.__name__: kind for kind in (ModelBuildError, ModelGateError)}

_UNPICKLES = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch refuses to have both


def run_build(name: str, request: Mapping[str, Any], work: Path) -> None:
    """Run ``python -m cdk_inference.model.building WORK`` on a request.

    The process writes events to its output, one JSON object a line; all else goes to a log next to the work folder.

    Parameters
    ----------
    name
        The model, for messages.
    request
        The work to do; see `cdk_inference.model.building.__main__`.
    work
        An empty folder, which gets the results.

    Raises
    ------
    ModelGateError
        The model does not pass its gate.
    ModelBuildError
        With what the process says, or how it ended.
    """
    (work / "request.json").write_text(json.dumps(request), "utf-8")
    log = work.parent / f"{work.name.removeprefix('.').removesuffix('.building')}.log"
    error: ModelBuildError | None = None
    current = "start"
    with log.open("wb") as log_file, _progress(name) as show:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", "cdk_inference.model.building", str(work)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env={k: v for k, v in os.environ.items() if k != _UNPICKLES} | ENVIRONMENT,
            text=True,
            encoding="utf-8",
        )
        try:
            for line in process.stdout or ():
                event = json.loads(line)
                if "error" in event:
                    error = _KINDS[event["kind"]](event["error"].replace("{log}", str(log)))
                else:
                    current = event.get("pass", current)
                    show(event)
            process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
    if error is not None:
        raise error
    if process.returncode != 0:
        raise ModelBuildError(
            f"model '{name}' cannot be built: the build process {ending(process.returncode)} in the pass '{current}'; "
            f"{_MORE_MEMORY if process.returncode == -signal.SIGKILL else ''}see {log}"
        )
    (work / "request.json").unlink()


def ending(code: int) -> str:
    """Return in words how a process ended."""
    if code == -signal.SIGKILL:
        return "was killed, most likely because the machine ran out of memory"
    if code < 0:
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with code {code}"


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Any]:
    """Yield a function that shows events: a spinner with the current pass on a terminal, quiet lines elsewhere."""
    if not sys.stderr.isatty():
        wordy = bool(os.environ.get(PASSES))

        def quietly(event: dict[str, Any]) -> None:
            if "notice" in event:
                say(f"model {name}: {event['notice']}")
            elif "seconds" in event:
                say(f"model {name}: {_done(event)}")
            elif wordy:
                say(f"model {name}: {_running(event)}")

        yield quietly
        return
    from rich.console import Console  # noqa: PLC0415 - only a build on a terminal needs it
    from rich.markup import escape  # noqa: PLC0415

    console = Console(stderr=True, highlight=False)
    with console.status(f"model {escape(name)}: starting") as status:

        def show(event: dict[str, Any]) -> None:
            if "notice" in event:
                console.print(f"[yellow]![/yellow] model {escape(name)}: {escape(event['notice'])}")
            elif "seconds" in event:
                console.print(f"[green]✓[/green] model {escape(name)}: {escape(_done(event))}")
            else:
                status.update(f"model {escape(name)}: {escape(_running(event))}")

        yield show


def _running(event: Mapping[str, Any]) -> str:
    """Return the name of a pass, and how much of a file it has downloaded."""
    if "received" not in event:
        return _named(event)
    whole = f" of {size(event['size'])}" if event["size"] else ""
    return f"{event['pass']}: {size(event['received'])}{whole}"


def _done(event: Mapping[str, Any]) -> str:
    seconds = "from the cache" if event.get("cached") else f"{event['seconds']:.1f} s"
    return f"{_named(event)} ({seconds})"


def _named(event: Mapping[str, Any]) -> str:
    return f"{event['pass']}: {event['note']}" if event.get("note") else str(event["pass"])
