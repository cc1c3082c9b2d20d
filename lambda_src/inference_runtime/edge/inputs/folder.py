"""A folder that is watched: files are taken once nobody writes them any more."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inference_runtime.edge.settings import MOVE
from inference_runtime.edge.storage.spool import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from inference_runtime.edge.storage.records import Record

DONE, FAILED = "done", "failed"
"""The folders in the watched one, in which nothing is taken."""

MAX_DEPTH = 32
"""Folders in each other."""

EMPTY_SECONDS = 600.0
"""Seconds that an empty folder must be seen unchanged before it is removed, whatever the clock shows."""

_UNFINISHED = (b".tmp", b".part", b".partial", b".crdownload", b".swp", b"~")
_REMOVED = b".cdk-inference-removed"
_PIECE = 1024 * 1024
_log = logging.getLogger(__name__)


class FoundFile(NamedTuple):
    """A file that nobody writes any more.

    Attributes
    ----------
    path
        Relative to the folder.
    stamp
        Its size, time and inode, which another content has otherwise.
    size
        In bytes.
    time
        When it was written, in ISO 8601.
    """

    path: bytes
    stamp: str
    size: int
    time: str

    @property
    def key(self) -> str:
        """The path as text; bytes that are not UTF-8 are escaped."""
        return self.path.decode("utf-8", "backslashreplace")


class ChangedError(Exception):
    """A file was removed or written anew since it was found."""


class WatchedFolder:
    """Finds files, reads them, and removes or moves them.

    Parameters
    ----------
    folder
        The folder. It need not be there: a disk may be mounted later.
    settle_seconds
        That a file must stay the same.
    after
        The end of a file that is done, `settings.REMOVE` or `MOVE`.
    suffixes
        The suffixes of files that are taken, in these spellings; all if there are none.
    empty_seconds
        That a folder must be empty before it is removed; 0 for never.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settle_seconds: float,
        after: str,
        suffixes: Sequence[str] = (),
        empty_seconds: float = 0.0,
    ) -> None:
        self._root = os.fsencode(folder)
        self._settle = settle_seconds
        self._after = after
        self._suffixes = tuple(os.fsencode(suffix) for suffix in suffixes)
        self._seen: dict[bytes, tuple[str, float]] = {}  # what a file was like, and since when, by path
        self._unfinished: set[str] = set()  # stamps of files that had the name of one that is being written
        self._settled: deque[FoundFile] = deque()
        self._blind: set[bytes] = set()  # folders that could not be looked at
        self._empty_seconds = empty_seconds
        self._empty: dict[bytes, tuple[str, float]] = {}  # what an empty folder was like, and since when, by path
        self._told: dict[bytes, str] = {}

    def oldest(self, known: Callable[[], Mapping[bytes, str]]) -> FoundFile | None:
        """Return the oldest file that has settled, or None. It looks again once all of them were passed by.

        Parameters
        ----------
        known
            Returns the stamps of the files that were taken already, by path.
        """
        if not self._settled:
            self._look(known())
        return self._settled[0] if self._settled else None

    def pass_by(self, found: FoundFile) -> None:
        """Have `oldest` return the next file: this one is taken, or cannot be now."""
        if self._settled and self._settled[0] is found:
            self._settled.popleft()

    def digest(self, found: FoundFile, most_bytes: int) -> str:
        """Return the SHA-256 of a file's bytes; of one that is too large, that of its size and time.

        Raises
        ------
        ChangedError
            If it is not as it was found.
        OSError
            If it cannot be read.
        """
        if found.size > most_bytes:
            return hashlib.sha256(found.stamp.encode()).hexdigest()
        digest = hashlib.sha256()
        with self._opened(found.path, found.stamp) as file:
            while piece := os.read(file, _PIECE):
                digest.update(piece)
            _check(file, found.stamp)
        return digest.hexdigest()

    def read(self, path: bytes, stamp: str) -> bytes:
        """Return the bytes of a file.

        Raises
        ------
        ChangedError
            If it is not as it was found.
        OSError
            If it cannot be read.
        """
        with self._opened(path, stamp) as file:
            pieces = list(iter(lambda: os.read(file, _PIECE), b""))
            _check(file, stamp)
        return b"".join(pieces)

    def finish(self, record: Record) -> bool:
        """Remove or move the file of an answered item, and return whether it is out of the way.

        One that was written anew stays: it is another item.
        """
        if record.path is None or record.stamp is None:
            return True
        try:
            if self._after == MOVE:
                self._move(record.path, record.stamp, DONE, record.sequence)
            else:
                self._remove(record.path, record.stamp)
        except ChangedError:
            return True
        except OSError as error:
            self._tell(record.path, f"cannot be removed or moved, and stays: {error}")
            return False
        return True

    def set_aside(self, record: Record) -> bool:
        """Move the file of an item that cannot be scored to the folder `failed`, and return whether it is there."""
        if record.path is None or record.stamp is None:
            return True
        try:
            self._move(record.path, record.stamp, FAILED, record.sequence)
        except ChangedError:
            return True
        except OSError as error:
            self._tell(record.path, f"cannot be moved to {FAILED}, and stays: {error}")
            return False
        return True

    def refuse(self, found: FoundFile, error: OSError) -> None:
        """Say once that a file cannot be read. It is tried again as long as it is there."""
        self._tell(found.path, f"cannot be read, and stays: {error}")

    def _look(self, known: Mapping[bytes, str]) -> None:
        """Note which files there are, and which of them have settled."""
        now = time.monotonic()
        seen: dict[bytes, tuple[str, float]] = {}
        unfinished: set[str] = set()
        found: list[tuple[int, FoundFile]] = []
        self._blind.clear()
        empty: list[bytes] = []
        for path, state in self._files(b"", 0, empty):
            if _is_unfinished(path):
                unfinished.add(_stamp(state))
                continue
            if self._suffixes and not path.endswith(self._suffixes):
                continue
            stamp = _stamp(state)
            if known.get(path) == stamp:
                continue
            before = self._seen.get(path)
            since = before[1] if before is not None and before[0] == stamp else now
            if now - since >= self._settle or stamp in self._unfinished:
                found.append((state.st_mtime_ns, FoundFile(path, stamp, state.st_size, _iso(state.st_mtime))))
            seen[path] = (stamp, since)
        self._seen, self._unfinished = seen, unfinished
        there = seen.keys() | known.keys() | self._blind
        self._told = {path: text for path, text in self._told.items() if path in there}
        self._settled.extend(file for _, file in sorted(found))
        if self._empty_seconds:
            self._remove_empty(empty, now)

    def _remove_empty(self, folders: Sequence[bytes], now: float) -> None:
        """Remove folders that stay empty, such as those of past days, which would slow each look down.

        The time that a folder shows may be from before the clock was set. So it must also be seen for a while.
        """
        before, self._empty = self._empty, {}
        for path in folders:
            with suppress(OSError):  # somebody has a file in it by now, or it is another disk
                state = os.lstat(self._absolute(path))
                stamp, since = before.get(path, ("", now))
                if stamp != _stamp(state):
                    since = now
                if now - since >= EMPTY_SECONDS and time.time() - state.st_mtime >= self._empty_seconds:
                    since = now  # the next try, if this one fails
                    os.rmdir(self._absolute(path))
                self._empty[path] = _stamp(state), since

    def _files(self, folder: bytes, depth: int, empty: list[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
        """Yield paths and states of regular files, without following a link, and collect the empty folders."""
        try:
            entries = list(os.scandir(self._absolute(folder)))
        except OSError as error:
            self._blind.add(folder)
            self._tell(folder, f"cannot be looked at: {error}")
            return
        if folder and not entries:
            empty.append(folder)
        for entry in entries:
            path = b"/".join((folder, entry.name)) if folder else entry.name
            try:
                state = entry.stat(follow_symlinks=False)
            except OSError:  # it was removed meanwhile
                continue
            if stat.S_ISREG(state.st_mode):
                yield path, state
            elif stat.S_ISDIR(state.st_mode):
                if entry.name.startswith(b".") or (not folder and path in {DONE.encode(), FAILED.encode()}):
                    continue
                if depth < MAX_DEPTH:
                    yield from self._files(path, depth + 1, empty)

    def _tell(self, path: bytes, text: str) -> None:
        if self._told.get(path) != text:
            self._told[path] = text
            _log.error("%s %s", os.fsdecode(self._absolute(path)), text)

    def _absolute(self, path: bytes) -> bytes:
        return os.path.join(self._root, path) if path else self._root

    def _opened(self, path: bytes, stamp: str) -> _Descriptor:
        """Open a file unless it is a link, or something other than a file, or was changed."""
        try:
            descriptor = os.open(self._absolute(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ChangedError(f"{path!r} is gone") from error
        opened = _Descriptor(descriptor)
        try:
            _check(descriptor, stamp)
        except ChangedError:
            opened.close()
            raise
        return opened

    def _remove(self, path: bytes, stamp: str) -> None:
        away = self._absolute(os.path.join(os.path.dirname(path), _REMOVED))
        self._take_away(path, stamp, away)
        os.unlink(away)

    def _take_away(self, path: bytes, stamp: str, target: bytes) -> None:
        """Rename a file. If another one took its place just before, give that back, for it was not scored."""
        self._check_path(path, stamp)
        source = self._absolute(path)
        os.rename(source, target)
        if _stamp(os.lstat(target)) != stamp:
            if os.path.lexists(source):  # whoever wrote a third one wanted the second one to go
                os.unlink(target)
            else:
                os.rename(target, source)
            raise ChangedError(f"{path!r} was written anew")

    def _check_path(self, path: bytes, stamp: str) -> None:
        try:
            state = os.lstat(self._absolute(path))
        except FileNotFoundError as error:
            raise ChangedError(f"{path!r} is gone") from error
        if _stamp(state) != stamp:
            raise ChangedError(f"{path!r} was written anew")

    def _move(self, path: bytes, stamp: str, folder: str, sequence: int) -> None:
        """Move a file within the watched folder; one that has its name there already stays, too."""
        target = Path(os.fsdecode(os.path.join(self._root, folder.encode(), path)))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() or target.is_symlink():
            target = target.with_name(f"{target.name}.{sequence}")
        self._take_away(path, stamp, os.fsencode(target))
        with suppress(OSError):
            sync_folder(target.parent)


class _Descriptor:
    """Closes a file."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> int:
        return self._number

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        os.close(self._number)


def _check(descriptor: int, stamp: str) -> None:
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode) or _stamp(state) != stamp:
        raise ChangedError("the file was written anew")


def _stamp(state: os.stat_result) -> str:
    return f"{state.st_size}:{state.st_mtime_ns}:{state.st_ino}"


def _is_unfinished(path: bytes) -> bool:
    name = path.rpartition(b"/")[2]
    return name.startswith(b".") or name.lower().endswith(_UNFINISHED)


def _iso(seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # anybody may set the time of a file, to any
        moment = datetime.now(UTC)
    return moment.isoformat(timespec="milliseconds")
