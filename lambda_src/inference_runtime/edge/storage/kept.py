"""Folders of files that stay on the device after they were scored, within limits of age and of bytes."""

from __future__ import annotations

import heapq
import logging
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inference_runtime.edge.clock import EARLIEST, is_set

if TYPE_CHECKING:
    from collections.abc import Iterator

TIDY_SECONDS = 600.0
"""Seconds until a folder is looked at again, if nothing was added to it that might be too much."""

MAX_REMOVED = 1_000
"""Files that are removed at a time."""

_ROOM = 0.9  # share of the limit that is left full, so that not each new file is one too many
_log = logging.getLogger(__name__)


class _Kept(NamedTuple):
    since: float
    path: Path
    size: int


class KeptFiles:
    """Folders whose files share a limit; the oldest are removed first. For one thread.

    Parameters
    ----------
    folders
        They need not be there.
    seconds
        That a file is kept; 0 for any time. Time counts from when a file came into its folder, by a clock that is set.
    max_bytes
        Bytes of all files.
    removes
        Whether files are removed to make room.

    Attributes
    ----------
    used
        Bytes of the files, as far as is known.
    """

    def __init__(self, *folders: Path, seconds: float, max_bytes: int, removes: bool) -> None:
        self._folders = folders
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._removes = removes
        self._looked_at = float("-inf")
        self._makes_room = False  # whether there is more to remove at once
        self.used = 0

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return self.used >= self._max_bytes

    def add(self, size: int) -> None:
        """Note that a file of so many bytes came into a folder."""
        self.used += size
        self._makes_room = self._makes_room or (self._removes and self.full)

    def tidy(self, *, again_seconds: float = TIDY_SECONDS) -> None:
        """Remove what is too old, and what is too much, unless that was done a short time ago.

        Parameters
        ----------
        again_seconds
            Such a short time.
        """
        now = time.monotonic()
        if now - self._looked_at < again_seconds and not self._makes_room:
            return
        self._looked_at = now
        self.used = 0
        oldest = heapq.nsmallest(MAX_REMOVED, self._files())  # a device has no memory for a list of all
        most = self._max_bytes * _ROOM if self._removes and self.full else float("inf")
        removed, failure = 0, None
        for kept in oldest:
            if self._is_too_old(kept) or self.used > most:
                try:
                    kept.path.unlink()
                except OSError as error:
                    failure = failure or error
                else:
                    self.used -= kept.size
                    removed += 1
        if failure is not None:
            _log.error("files that were kept long enough cannot be removed: %s", failure)
        if removed:
            _log.info("removed %s files that were kept long enough", f"{removed:,}")
        self._makes_room = self._removes and self.full and removed > 0

    def _is_too_old(self, kept: _Kept) -> bool:
        if not self._seconds or not is_set():
            return False
        if kept.since >= EARLIEST:
            return time.time() - kept.since > self._seconds
        with suppress(OSError):  # it came before the clock was set: its age counts from here
            state = kept.path.lstat()
            os.utime(kept.path, ns=(state.st_atime_ns, state.st_mtime_ns), follow_symlinks=False)
        return False

    def _files(self) -> Iterator[_Kept]:
        """Count and yield the files, and remove folders that are empty."""
        for root in self._folders:
            for where, _, names in os.walk(root, topdown=False):
                folder = Path(where)
                for name in names:
                    path = folder / name
                    try:
                        state = path.lstat()
                    except OSError:  # somebody removed it
                        continue
                    if stat.S_ISREG(state.st_mode):
                        self.used += state.st_size
                        yield _Kept(state.st_ctime, path, state.st_size)
                if folder != root and not names:
                    with suppress(OSError):  # it has others
                        folder.rmdir()
