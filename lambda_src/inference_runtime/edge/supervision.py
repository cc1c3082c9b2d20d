"""Tells systemd and people how the agent is, and ends a process of which a part has ended."""

from __future__ import annotations

import json
import logging
import os
import socket
import sqlite3
import time
from datetime import UTC, datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from inference_runtime.edge.clock import is_set
from inference_runtime.edge.storage.spool import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from inference_runtime.edge.agent import Agent
    from inference_runtime.edge.cloud.uplink import Uplink
    from inference_runtime.edge.storage.outbox import Outbox

ENDED = 70
"""The exit code of a process that ended itself because a thread of it had ended."""

_EVERY = 1.0  # seconds between two looks
_log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send a state to systemd, if it started this process; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall(state.encode())
    except OSError as error:
        _log.warning("cannot notify systemd: %s", error)


class Supervisor:
    """Looks after the agent, on a thread.

    Parameters
    ----------
    agent, uplink, outbox
        The parts that it looks after.
    path
        The file with the status.
    about
        Further members of the status, such as the version.
    status_seconds
        Between two writes of the status.
    end
        Ends the process with an exit code.
    """

    def __init__(
        self,
        agent: Agent,
        uplink: Uplink,
        outbox: Outbox,
        *,
        path: Path,
        about: Mapping[str, str],
        status_seconds: float,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self._agent = agent
        self._uplink = uplink
        self._outbox = outbox
        self._path = path
        self._about = about
        self._status_seconds = status_seconds
        self._end = end
        self._told = ""
        self._began = time.monotonic()
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begin, and say that the agent is ready."""
        notify("READY=1")
        self._thread.start()

    def stop(self) -> None:
        """End, and write the status once more."""
        notify("STOPPING=1")
        self._stopping.set()
        self._thread.join()
        self._write()

    def _run(self) -> None:
        written = -self._status_seconds
        while True:
            if not self._uplink.alive:
                _log.critical("this process ends: the thread that sends has ended")
                self._end(ENDED)
            if not self._agent.alive:
                _log.critical("this process ends: the agent hangs, or its connection to the broker has ended")
                self._end(ENDED)
            notify("WATCHDOG=1")
            if time.monotonic() - written >= self._status_seconds:
                self._write()
                written = time.monotonic()
            if self._stopping.wait(min(_EVERY, self._status_seconds)):
                return

    def _write(self) -> None:
        try:
            status = self.status()
            partial = self._path.with_name(f"{self._path.name}.partial")
            with partial.open("w", encoding="utf-8") as file:
                json.dump(status, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
            sync_folder(self._path.parent)
        except (OSError, sqlite3.Error) as error:
            if self._told != (text := f"{type(error).__name__}: {error}"):
                self._told = text
                _log.error("cannot write the status: %s", text)
            return
        self._told = ""
        _log.info("status: %s", json.dumps(status))
        waiting = status["waiting"]
        notify(f"STATUS={waiting['rows']} rows and {waiting['objects']} objects wait")

    def status(self) -> dict[str, Any]:
        """Return how the agent is."""
        backlog = self._outbox.backlog()
        oldest = backlog.pop("oldest")
        now = time.time()
        return {
            **self._about,
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
            "clock_set": is_set(),
            "uptime_seconds": round(time.monotonic() - self._began),
            "counts": self._outbox.counts(),
            "waiting": backlog,
            "oldest_seconds": None if oldest is None else max(0, round(now - oldest / 1e9)),
            "spool_bytes": self._outbox.used,
            "failed_bytes": self._agent.failed_bytes,
            "full": self._agent.full,
            "failing": self._uplink.failing,
        }
