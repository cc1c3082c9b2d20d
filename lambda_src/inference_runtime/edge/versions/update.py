"""Has a machine without Greengrass run the version that a parameter names, and goes back if it does not get ready.

The parameter is JSON: `{"bucket", "key", "sha256", "version"}`.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from inference_runtime.edge.cloud.pace import Backoff
from inference_runtime.edge.cloud.requests import AwsError, AwsRequests
from inference_runtime.edge.storage.spool import sync_folder
from inference_runtime.edge.versions.versions import DamagedError, Versions, name_of
from inference_runtime.errors import RetryableError, StageError

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

DOWNLOAD_TRIES = 8
"""How often a download goes on that broke off. The next update goes on after that, too."""

LEAST_FREE_BYTES = 32 * 1024**2
"""Bytes that a download leaves free."""

_PENDING, _REFUSED, _DAMAGED, _DOWNLOADS = "pending.json", "rolled-back.json", "damaged.json", "downloads"
_MOST_PAUSE = 7 * 86_400.0
_NETWORK = (OSError, http.client.HTTPException, RetryableError)
_log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """The version that a machine should run."""

    bucket: str
    key: str
    sha256: str
    version: str


class Unit(NamedTuple):
    """The unit of systemd that runs the agent, with ``Type=notify``: it is started once the agent is ready."""

    systemctl: str
    name: str
    ready_seconds: float

    def restart(self) -> bool:
        """Restart it, and return whether it got ready in time.

        Raises
        ------
        StageError
            If systemd cannot be asked.
        """
        command = [self.systemctl, "restart", self.name]
        try:
            done = subprocess.run(command, check=False, timeout=self.ready_seconds)  # noqa: S603 - from arguments
        except subprocess.TimeoutExpired:
            _log.error("%s was not ready within %.0f s", self.name, self.ready_seconds)
            return False
        except OSError as error:
            raise StageError(f"cannot run {self.systemctl}: {error}") from error
        return done.returncode == 0


def update(chosen: Namespace) -> bool:
    """Install and start the version that is wanted, and return whether the machine has what it should have.

    Parameters
    ----------
    chosen
        `root`, `parameter`, `unit`, `systemctl` and `ready_seconds`.

    Raises
    ------
    StageError
        If the parameter is malformed, or systemd cannot be asked.
    """
    versions = Versions(chosen.root)
    unit = Unit(chosen.systemctl, chosen.unit, chosen.ready_seconds)
    if (pending := _read(chosen.root / _PENDING)) is not None:  # an update was cut off before it was judged
        _judge(versions, unit, pending, ready=versions.current() != pending["name"] or unit.restart())
    try:
        wanted = _wanted(AwsRequests(), chosen.parameter)
    except (AwsError, *_NETWORK) as error:
        _log.error("cannot read the parameter %s: %s", chosen.parameter, error)
        return False
    name = name_of(wanted.sha256)
    if name == versions.current():
        _log.info("%s runs already", wanted.version)
        return True
    if (_read(chosen.root / _REFUSED) or {}).get("name") == name:
        _log.warning("%s was rolled back before, and is not tried again", wanted.version)
        return False
    if not _installed(versions, wanted):
        return False
    pending = {"name": name, "before": versions.current(), "version": wanted.version}
    _write(chosen.root / _PENDING, pending)
    versions.use(name)
    return _judge(versions, unit, pending, ready=unit.restart())


def _installed(versions: Versions, wanted: Wanted) -> bool:
    """Download and unpack a version, and return whether it may be used. One that fails its check is not tried again."""
    name, archive = name_of(wanted.sha256), versions.root / _DOWNLOADS / "unneeded"
    damaged = _read(versions.root / _DAMAGED) or {}
    times = int(damaged.get("times", 0)) if damaged.get("name") == name else 0
    if times and 0 <= time.time() - float(damaged["at"]) < (pause := min(_MOST_PAUSE, 3600 * 2.0**times)):
        _log.error("%s was damaged, and is downloaded again after %.0f hours", wanted.version, pause / 3600)
        return False
    try:
        if not versions.path(name).exists():
            archive = _downloaded(versions.root / _DOWNLOADS, wanted)
    except (AwsError, *_NETWORK) as error:
        _log.error("cannot download %s now, and go on later: %s", wanted.version, error)
        return False
    try:
        versions.unpack(archive, wanted.sha256)
    except OSError as error:  # such as a disk that is full: what was downloaded stays
        _log.error("cannot install %s now, and try again later: %s", wanted.version, error)
        return False
    except DamagedError as error:
        _log.error("cannot install %s now, and download it again later: %s", wanted.version, error)
        archive.unlink(missing_ok=True)
        _write(versions.root / _DAMAGED, {"name": name, "times": times + 1, "at": time.time()})
        return False
    except StageError as error:
        _log.error("%s is not used: %s", wanted.version, error)
        archive.unlink(missing_ok=True)
        _write(versions.root / _REFUSED, {"name": name, "version": wanted.version, "reason": str(error)})
        return False
    archive.unlink(missing_ok=True)
    return True


def _judge(versions: Versions, unit: Unit, pending: dict[str, Any], *, ready: bool) -> bool:
    """Keep a version that got ready; otherwise go back, and note not to try it again."""
    root = versions.root
    if not ready:
        reason = "the new process was not ready in time"
        _write(root / _REFUSED, {"name": pending["name"], "version": pending["version"], "reason": reason})
        _log.error("%s is rolled back: %s", pending["version"], reason)
        if pending["before"] is not None:
            versions.use(pending["before"])
            if not unit.restart():
                _log.error("the version before does not get ready either")
    elif versions.current() == pending["name"]:
        _log.info("%s runs", pending["version"])
        (root / _REFUSED).unlink(missing_ok=True)
    (root / _PENDING).unlink(missing_ok=True)
    sync_folder(root)
    return ready


def _wanted(requests: AwsRequests, parameter: str) -> Wanted:
    answer = requests.call("ssm", "GetParameter", {"Name": parameter})
    try:
        told = json.loads(answer["Parameter"]["Value"])
        found = Wanted(*(told[name] for name in Wanted._fields))
    except (KeyError, TypeError, ValueError) as error:
        raise StageError(f"the parameter {parameter} must be JSON with {', '.join(Wanted._fields)}") from error
    if not all(isinstance(value, str) and value for value in found):
        raise StageError(f"the parameter {parameter} must have strings, got {told!r:.300}")
    return found


def _downloaded(folder: Path, wanted: Wanted) -> Path:
    """Download a version, from where an earlier attempt ended."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name_of(wanted.sha256)}.zip.partial"
    for other in folder.iterdir():  # of a version that is not wanted any more
        if other != target:
            other.unlink()
    backoff = Backoff(1.0, 60.0)
    for attempt in range(1, DOWNLOAD_TRIES + 1):
        try:
            _go_on(AwsRequests(), wanted, target)
        except (AwsError, *_NETWORK) as error:
            full = not isinstance(error, AwsError) and shutil.disk_usage(folder).free < LEAST_FREE_BYTES
            if attempt == DOWNLOAD_TRIES or full or (isinstance(error, AwsError) and not error.transient):
                raise
            seconds = backoff.fail()
            _log.warning("the download broke off, the next try is in %.0f s: %s", seconds, error)
            time.sleep(seconds)
        else:
            return target
    raise AssertionError


def _go_on(requests: AwsRequests, wanted: Wanted, target: Path) -> None:
    """Download what is missing. The digest finds parts that do not fit together."""
    start = target.stat().st_size if target.exists() else 0
    try:
        part = requests.object_from(wanted.bucket, wanted.key, start)
    except AwsError as error:
        if error.code == "InvalidRange" and start:  # it is complete
            return
        raise
    if (free := shutil.disk_usage(target.parent).free) < part.length + LEAST_FREE_BYTES:
        raise OSError(f"the disk must have {part.length + LEAST_FREE_BYTES:,} bytes, got {free:,}")
    received = 0
    with target.open("ab") as file:
        for piece in part.pieces:
            file.write(piece)
            received += len(piece)
        file.flush()
        os.fsync(file.fileno())
    if received < part.length:
        raise http.client.IncompleteRead(b"", part.length - received)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)
