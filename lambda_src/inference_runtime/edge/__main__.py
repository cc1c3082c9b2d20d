"""The commands of the device: ``python -m inference_runtime.edge run|check|install|update``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

from inference_runtime.edge.package import Package
from inference_runtime.edge.storage.locking import locked
from inference_runtime.environment import required
from inference_runtime.errors import RetryableError, StageError
from inference_runtime.lifecycle import WARMING, WARMING_KEY
from inference_runtime.serving.cpus import available_cpus

STOP_SECONDS = 5.0
"""Seconds that what is being sent has after SIGTERM."""

_log = logging.getLogger("inference_runtime.edge")


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return the exit code. An empty variable of the environment is not set."""
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"), format="%(levelname)s %(name)s %(message)s")
    for name in [name for name, value in os.environ.items() if not value]:
        del os.environ[name]  # a recipe cannot leave a variable out
    os.environ.setdefault("MODEL_THREADS", str(available_cpus()))
    chosen = _parser().parse_args(arguments)
    try:
        return int(chosen.command(chosen))
    except (StageError, RetryableError, OSError, sqlite3.Error) as error:
        _log.error("%s", error)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference_runtime.edge", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="take items, score them and send the answers, until SIGTERM")
    run.set_defaults(command=_run)
    check = commands.add_parser("check", help="open the model and run the example of the build")
    check.set_defaults(command=_check)
    install = commands.add_parser("install", help="install a version from a zip")
    install.add_argument("zip", type=Path)
    install.add_argument("--sha256", required=True, help="of the zip, in hex")
    install.set_defaults(command=_install)
    update = commands.add_parser("update", help="install and start the version that is wanted, or go back")
    update.add_argument("--parameter", default=os.environ.get("VERSION_PARAMETER"), help="in Parameter Store")
    update.add_argument("--unit", default="cdk-inference-edge.service", help="that runs the agent")
    update.add_argument("--systemctl", default="systemctl", help="the command that restarts the unit")
    update.add_argument("--ready-seconds", type=float, default=300.0, help="until the new process must be ready")
    update.set_defaults(command=_update)
    for command in (install, update):
        command.add_argument("--root", type=Path, default=_default_root(), help="of the versions")
    return parser


def _default_root() -> Path:
    return Path(os.environ.get("VERSIONS_ROOT") or "/opt/cdk-inference-edge")


def _check(_: argparse.Namespace) -> int:
    """Run the self-test."""
    from inference_runtime.edge.checking import check  # noqa: PLC0415 - the other commands need less

    package = Package.read()
    package.configure()
    try:
        check(package)
    except Exception:
        _log.exception("%s %s failed its check", package.name, package.version)
        return 1
    return 0


def _run(_: argparse.Namespace) -> int:
    """Check the version in another process, which a crash ends alone, and work until SIGTERM."""
    from inference_runtime.edge.settings import Settings  # noqa: PLC0415

    package = Package.read()
    package.configure()
    settings = Settings.from_environment(package)
    required("MODEL_VERSION")
    if subprocess.run([sys.executable, "-m", "inference_runtime.edge", "check"], check=False).returncode != 0:
        _log.error("this version is not used, since it failed its check")
        return 1
    with locked(settings.state):
        return _work(package, settings)


def _work(package: Package, settings: Any) -> int:  # noqa: ANN401 - its module is imported late
    from inference_runtime.edge.agent import Agent  # noqa: PLC0415 - wrong settings are told at once
    from inference_runtime.edge.cloud.uplink import Uplink  # noqa: PLC0415
    from inference_runtime.edge.storage.outbox import Outbox  # noqa: PLC0415
    from inference_runtime.edge.storage.spool import Spool  # noqa: PLC0415
    from inference_runtime.edge.supervision import Supervisor  # noqa: PLC0415
    from inference_runtime.handlers.fused import handler  # noqa: PLC0415 - its import opens the model

    spool = Spool(settings.state / "spool")
    outbox = Outbox(settings.state, spool)
    uplink = Uplink(settings, package.version, outbox, spool, sent=lambda: agent.wake())  # noqa: PLW0108 - made below
    agent = Agent(package, settings, outbox, spool, handler=handler, answered=uplink.wake)
    supervisor = Supervisor(
        agent,
        uplink,
        outbox,
        path=settings.state / "status.json",
        about={"device": settings.device, "name": package.name, "version": package.version},
        status_seconds=settings.status_ms / 1000,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: Thread(target=agent.stop).start())  # its locks may be held right here
    handler({WARMING_KEY: WARMING}, None)
    uplink.start()
    supervisor.start()
    _log.info("ready")
    try:
        agent.run()
    finally:
        uplink.stop(STOP_SECONDS)
        supervisor.stop()
        outbox.close()
    return 0


def _install(chosen: argparse.Namespace) -> int:
    """Install a version from a file."""
    from inference_runtime.edge.versions.versions import Versions  # noqa: PLC0415

    os.umask(0o022)  # the agent is another user, and reads what is installed
    with locked(chosen.root):
        versions = Versions(chosen.root)
        versions.use(versions.unpack(chosen.zip, chosen.sha256))
    return 0


def _update(chosen: argparse.Namespace) -> int:
    """Have the machine run the version that is wanted."""
    from inference_runtime.edge.versions.update import update  # noqa: PLC0415

    if not chosen.parameter:
        raise StageError("--parameter or VERSION_PARAMETER must be set")
    os.umask(0o022)
    with locked(chosen.root):
        return 0 if update(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
