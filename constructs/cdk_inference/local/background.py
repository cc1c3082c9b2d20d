"""The embedded AWS of a project, kept by a background process from the first deploy until destroy."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from cdk_inference.local import aws
from cdk_inference.local.cloud import Cloud, LocalCloud
from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Collection

_TIME = "%Y-%m-%dT%H:%M:%S"
_FOLDER = ".cdk-inference"
_START_SECONDS = 90.0
_STOP_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_ERROR = "ERROR "
_NOT_ABLE = re.compile(r"pipe (\S+): \w+ failed: ")
_RETRY_AFTER = 1  # seconds: a bug in stage code is a dead letter after ten tries, which take an hour in AWS
_LOCK_SECONDS = 2.0  # others hold the lock for a moment, to see whether it is free

logger = logging.getLogger(__name__)


class NothingDeployedError(LocalError):
    """No embedded AWS runs for this project."""


class Background:
    """The embedded AWS of one project.

    Whether it runs is told by a lock that its process holds: a state file alone may be a leftover.

    Parameters
    ----------
    project
        Folder of the app.
    """

    def __init__(self, project: Path) -> None:
        self._project = project.resolve()
        self.folder = self._project / _FOLDER
        self.log = self.folder / "local.log"
        self._state = self.folder / "local.json"
        self._reason = self.folder / "local.failed"
        self._lock = FileLock(self.folder / "local.lock")

    def running(self) -> bool:
        """Tell whether its process lives."""
        if not self.folder.is_dir():
            return False
        try:
            with self._lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def failure(self) -> str | None:
        """Return why a part of the embedded AWS ended, if its process was there to tell."""
        try:
            return self._reason.read_text()
        except OSError:
            return None

    def cloud(self) -> Cloud:
        """Return the embedded AWS.

        Raises
        ------
        NothingDeployedError
            If it does not run. Files that a killed one left behind are removed.
        """
        if self.running():
            state = self._read()
            endpoint = str(state["endpoint"])
            if "key" not in state:
                raise LocalError("the embedded AWS must be of this version, got another; destroy it, then deploy again")
            aws.use_key(endpoint, aws.Key(**state["key"]))
            return Cloud(
                endpoint,
                self.folder,
                check=self._check,
                report=self._last_report,
                retry_after=state.get("retry_after"),
            )
        if reason := self.failure():
            raise NothingDeployedError(
                f"the embedded AWS of this project must run, got one that has ended: {reason}; deploy again"
            )
        if self._state.exists():
            self._remove()
            raise NothingDeployedError(
                "the embedded AWS of this project must run, got one that was killed; deploy again"
            )
        raise NothingDeployedError(f"{self._project} must be deployed locally; deploy it first")

    def start(self, *, aws_timing: bool = False) -> tuple[Cloud, bool]:
        """Return the embedded AWS, after starting it if it does not run.

        Parameters
        ----------
        aws_timing
            Whether retries wait as long as in AWS. Default: for a second.

        Returns
        -------
        tuple of Cloud and bool
            The embedded AWS, and whether it was started just now.

        Raises
        ------
        LocalError
            If it does not come up; the message ends with what its process reported. Or if it runs with the other
            timing.
        """
        if self.running():
            cloud = self.cloud()
            if aws_timing and cloud.retry_after is not None:
                raise LocalError(
                    "aws_timing must be given when the embedded AWS starts, got one that runs without; destroy it first"
                )
            return cloud, False
        for leftover in (self._state, self._reason):  # of one that ended by itself
            leftover.unlink(missing_ok=True)
        self.folder.mkdir(exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")
        with self.log.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603
                [
                    *(sys.executable, "-m", "cdk_inference.local", "serve", "--project", str(self._project)),
                    *(["--aws-timing"] if aws_timing else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._project,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._state.exists():
            ended = process.poll() is not None and not self.running()  # it may have lost a race against another
            if ended or time.monotonic() > deadline:
                process.terminate()
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                raise LocalError(f"the embedded AWS cannot start:\n{tail}")
            time.sleep(0.05)
        return self.cloud(), True

    def stop(self) -> bool:
        """Stop it and remove its folder.

        Returns
        -------
        bool
            Whether it was running.

        Raises
        ------
        LocalError
            If its process does not end.
        """
        running = self.running()
        if running:
            pid = int(self._read()["pid"])
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_SECONDS
            while self.running():
                if time.monotonic() > deadline:
                    raise LocalError(f"process {pid} of the embedded AWS cannot be stopped; see {self.log}")
                time.sleep(0.05)
        self._remove()
        return running

    def events(self, *, since: int = 0) -> list[tuple[int, str, str]]:
        """Return what its process reported, above all the refusals of the pipes, and the errors of the emulator.

        Parameters
        ----------
        since
            Milliseconds since the epoch.

        Returns
        -------
        list of tuple
            Time in milliseconds since the epoch, ``"local"`` or ``"emulator"``, and message; by time.
        """
        emulator = [
            (at, "emulator", message.removeprefix(_ERROR))
            for at, message in _lines(Path(self._read()["log"]), containing=_ERROR)
            if message.startswith(_ERROR)
        ]
        events = [*((at, "local", message) for at, message in _lines(self.log)), *emulator]
        return sorted((event for event in events if event[0] >= since), key=lambda event: event[0])

    def serve(self, *, aws_timing: bool = False) -> None:
        """Be the background process: run the embedded AWS until SIGTERM, or until the project's folder is gone.

        Parameters
        ----------
        aws_timing
            Whether retries wait as long as in AWS. Default: for a second.

        Raises
        ------
        LocalError
            If another process runs it already.
        """
        logging.basicConfig(level=logging.INFO, format="%(asctime)s.%(msecs)03d+00:00 %(message)s", datefmt=_TIME)
        logging.Formatter.converter = time.gmtime
        logging.getLogger("botocore").setLevel(logging.WARNING)
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        try:
            self.folder.chmod(0o700)  # an older version may have made it
            retry_after = None if aws_timing else _RETRY_AFTER
            with (
                self._lock.acquire(timeout=_LOCK_SECONDS),
                LocalCloud(retry_after=retry_after, kept=self.folder) as cloud,
            ):
                state = {
                    "pid": os.getpid(),
                    "endpoint": cloud.endpoint,
                    "key": asdict(aws.key_of(cloud.endpoint)),
                    "log": str(cloud.emulator.log),
                    "retry_after": retry_after,
                }
                _replace(self._state, json.dumps(state))
                logger.info("the embedded AWS answers at %s", cloud.endpoint)
                while not stopping.wait(_LOOK_SECONDS):
                    self._check_own(cloud)
                    if not self._state.exists():
                        break
        except Timeout as error:
            raise LocalError(
                f"the embedded AWS of {self._project} cannot be started twice; destroy the one that runs"
            ) from error
        logger.info("stopped")

    def _check_own(self, cloud: LocalCloud) -> None:
        """Raise if a part of the embedded AWS has ended, and leave the reason to those who ask later."""
        try:
            cloud.check()
        except LocalError as error:
            if self.folder.is_dir():
                _replace(self._reason, str(error))
            raise

    def _check(self) -> None:
        """Raise if the process has ended, as seen by another process."""
        if not self.running() or self._reason.exists():
            raise LocalError(
                f"the embedded AWS of this project must run, got one that has ended: "
                f"{self.failure() or 'it was stopped or killed'}"
            )

    def _last_report(self, since: int, pipes: Collection[str]) -> str | None:
        """Return the last thing that one of these pipes could not do."""
        matches = ((_NOT_ABLE.match(message), message) for at, message in _lines(self.log) if at >= since)
        failed = [message for match, message in matches if match and match[1] in pipes]
        return failed[-1] if failed else None

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._state.read_text()))
        except (OSError, ValueError) as error:
            raise NothingDeployedError(
                f"the embedded AWS of {self._project} cannot be used while it starts; try again"
            ) from error

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _lines(log: Path, *, containing: str = "") -> list[tuple[int, str]]:
    """Return the lines of a log with their times in milliseconds since the epoch; none if it is gone."""
    lines: list[tuple[int, str]] = []
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return lines
    for line in text.splitlines():
        if containing not in line:
            continue
        moment, _, message = line.partition(" ")
        try:
            lines.append((round(datetime.fromisoformat(moment).timestamp() * 1000), message))
        except ValueError:
            continue  # a further line of a traceback
    return lines


def _replace(path: Path, text: str) -> None:
    """Write a file that only this user can read, and sees as a whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    aws.write_private(part, text)
    part.replace(path)
