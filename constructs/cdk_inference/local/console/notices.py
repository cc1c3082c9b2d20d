"""News at the top of the page: edits that went live, deployments, and errors of user code."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.local.errors import LocalError
from cdk_inference.local.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path

    from cdk_inference.local.cloud import Cloud
    from cdk_inference.local.watch import Change

_KEPT = 50
_LOOK_SECONDS = 2.0  # until the embedded AWS is looked for again
_MOST_SECONDS = 300.0  # until it is, if one error follows another
_MOST_TEXT = 20_000  # characters

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NoticeObject:
    """The object that a notice is about.

    Parameters
    ----------
    pipeline
        The name of its pipeline.
    bucket
        The inbox of that.
    key
        Its key.
    """

    pipeline: str
    bucket: str
    key: str


class Notices:
    """The newest notices, which several threads may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: deque[tuple[Hashable, dict[str, Any]]] = deque(maxlen=_KEPT)
        self._number = 0

    def add(
        self,
        kind: str,
        title: str,
        text: str = "",
        *,
        at: int | None = None,
        about: NoticeObject | None = None,
        topic: Hashable = None,
    ) -> None:
        """Add a notice.

        Parameters
        ----------
        kind
            ``failure``, or the kind of a `Change`.
        title
            The event, in a line.
        text
            More of it, such as a traceback.
        at
            When, in milliseconds since the epoch. Default: now.
        about
            The object that it is about, if it is about one.
        topic
            A notice takes the place of the one before it on the same topic, and stays away if that was dismissed.
        """
        moment = round(time.time() * 1000) if at is None else at
        named = None if about is None else asdict(about)
        notice = {"at": moment, "kind": kind, "title": title, "text": text[:_MOST_TEXT], "about": named, "times": 1}
        with self._lock:
            before = next((each for each in self._found if topic is not None and each[0] == topic), None)
            if before is not None:
                self._found.remove(before)
                number, notice["times"] = before[1]["id"], before[1]["times"] + 1
            else:
                number = self._number = self._number + 1
            self._found.appendleft((topic, {"id": number} | notice))

    def newest(self) -> list[dict[str, Any]]:
        """Return the notices, the newest first."""
        with self._lock:
            return [notice for _, notice in self._found]


class Edits:
    """Puts edited stage code live for as long as the console runs, and tells of it.

    Parameters
    ----------
    project
        Folder of the app.
    find
        Returns the embedded AWS, or raises `LocalError` if there is none.
    notices
        Where to tell.
    """

    def __init__(self, project: Path, find: Callable[[], Cloud], notices: Notices) -> None:
        self._project = project
        self._find = find
        self._notices = notices
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="console-edits", daemon=True)

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End.

        Parameters
        ----------
        timeout
            Seconds to wait for what is under way.
        """
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        said, pause = "", _LOOK_SECONDS
        while not self._stopping.is_set():
            try:
                cloud = self._find()
                if cloud.deployed_files(self._project) is None:
                    # Whoever deployed an assembly of elsewhere would not want the app of this folder instead.
                    self._notices.add("watching", "edits are not watched: this folder's app is not what is deployed")
                    return
                Watch(self._project, cloud).run(self._stopping, self._tell)
            except LocalError as error:  # such as the end of the embedded AWS, which may be deployed again
                if str(error) != said:
                    said = str(error)
                    self._notices.add("failed", "edits are not watched", said)
                self._stopping.wait(_LOOK_SECONDS)
            except Exception as error:  # a thread that ended would leave edits alone, and nobody would know
                logger.warning("edits are not watched", exc_info=error)
                title = f"edits are not watched; the next try is in {pause:.0f} s"
                self._notices.add("failed", title, f"{type(error).__name__}: {error}")
                self._stopping.wait(pause)
                pause = min(2 * pause, _MOST_SECONDS)

    def _tell(self, change: Change) -> None:
        if change.kind == "watching" and not change.functions:
            return  # all stages are built in
        files = ", ".join(change.files[:3]) + (f" and {len(change.files) - 3} more" if len(change.files) > 3 else "")  # noqa: PLR2004
        titles = {
            "live": f"{files} is live in {', '.join(change.functions)} after {change.seconds:.1f} s",
            "deploying": f"deploying: {change.message}",
            "deployed": f"deployed after {change.seconds:.0f} s",
            "failed": f"{files} is not live; what was live before still is",
        }
        title = titles.get(change.kind, change.message)
        self._notices.add(change.kind, title, change.message if change.kind == "failed" else "")
