"""The work of the device: takes items, scores them, notes answers, and tidies the watched folder."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import time
from threading import Event
from typing import TYPE_CHECKING, Any

from inference_runtime.edge.answering import HUNG_BATCH, Answers
from inference_runtime.edge.inputs.folder import DONE, FAILED, ChangedError, WatchedFolder
from inference_runtime.edge.results import ResultLines
from inference_runtime.edge.settings import MOVE
from inference_runtime.edge.storage.kept import TIDY_SECONDS, KeptFiles
from inference_runtime.edge.storage.spool import SpoolError
from inference_runtime.errors import MalformedMessageError, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference_runtime.edge.inputs.folder import FoundFile
    from inference_runtime.edge.package import Package
    from inference_runtime.edge.settings import Settings
    from inference_runtime.edge.storage.outbox import Answer, Outbox
    from inference_runtime.edge.storage.records import Record
    from inference_runtime.edge.storage.spool import Spool

MAX_TRIES = 3
"""How often an item is begun. One that ended the process, or failed, so often is set aside."""

IN_TIME = 20
"""Batches in time after which they are larger again."""

MAX_BATCH_BYTES = 32 * 1024**2
"""Bytes of items that are scored together, and one item."""

ROW_BYTES = 4_096
"""Bytes that are kept free in the spool for the row of an item that is taken."""

LEAST_FREE_BYTES = 1024**2
"""Bytes that are left free on the disk, besides the item that is taken."""

MAX_TIDIED = 1_000
"""Files that are removed or moved at a time."""

_LONGEST_TURN = 180.0  # seconds besides scoring, such as to remove many files from a slow disk
_SILENT = 60.0  # seconds after it was said that the spool is full
_DAY = 86_400.0
_PAUSE = 5.0  # seconds after a failure of the disk, and after items that could not be scored now

_log = logging.getLogger(__name__)


class Agent:
    """Works until it is stopped; on the main thread.

    Parameters
    ----------
    package, settings
        The version, and the settings of the device.
    outbox, spool
        The records and the bytes of items.
    handler
        That of a fused function.
    answered
        Is called once there is something to send.
    """

    def __init__(
        self,
        package: Package,
        settings: Settings,
        outbox: Outbox,
        spool: Spool,
        *,
        handler: Callable[[dict[str, Any], Any], Any],
        answered: Callable[[], object],
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._spool = spool
        self._answered = answered
        self._answers = Answers(package, settings, outbox, handler, begins=self._turn)
        self._lines = None if settings.results is None else ResultLines(settings.results)
        self._folder = None
        if settings.watched is not None:
            settle = settings.settle_ms / 1000
            self._folder = WatchedFolder(
                settings.watched,
                settle_seconds=settle,
                after=settings.after,
                suffixes=settings.suffixes,
                empty_seconds=settings.empty_hours * 3_600,
            )
        self._done, self._failed = _kept(settings)
        self._topic = None
        if settings.topic is not None:
            from inference_runtime.edge.inputs.topic import TopicInput  # noqa: PLC0415 - paho may not be there

            self._topic = TopicInput(
                settings.topic,
                settings.device,
                outbox,
                max_bytes=settings.max_item_bytes,
                has_room=self.has_room,
                wake=self.wake,
            )
        self._stopping, self._woken = Event(), Event()
        self._full = False
        self._resume_at = self._silent_until = 0.0
        self._batch, self._in_time = settings.max_batch, 0
        self._owed: list[Record] = []  # items that a try is to be taken back from
        self._reserved = 0  # bytes of items that are being scored
        self._told = ""
        self._turned_at = time.monotonic()

    @property
    def full(self) -> bool:
        """Whether nothing is taken until something is sent, or somebody empties the folders `failed`."""
        return self._full

    @property
    def failed_bytes(self) -> int:
        """Bytes of the items that could not be scored or sent."""
        return self._failed.used

    @property
    def alive(self) -> bool:
        """Whether it has done something not long ago, or waited for something to do."""
        if self._topic is not None and not self._topic.alive:
            return False
        longest = self._settings.batch_seconds * HUNG_BATCH + _LONGEST_TURN
        return time.monotonic() - self._turned_at < longest

    def _turn(self) -> None:
        """Note that something begins."""
        self._turned_at = time.monotonic()

    def stop(self) -> None:
        """Let `run` return after the items that are being scored; signal handlers may call this too."""
        self._stopping.set()
        self._woken.set()

    def wake(self) -> None:
        """Look for work now."""
        self._woken.set()

    def has_room(self, size: int) -> bool:
        """Return whether an item of so many bytes may be taken, and say now and then if it may not."""
        lack = self._lack(size)
        if lack is not None and not self._full and time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _SILENT
            _log.warning("%s", lack)
        self._full = lack is not None
        return not self._full

    def _lack(self, size: int) -> str | None:
        """Return what there is no room in for an item of so many bytes, and until when; None if there is room."""
        used, most = self._outbox.used, self._settings.max_spool_bytes
        if used + self._reserved + size + ROW_BYTES > most:
            return f"the spool is full ({used:,} of {most:,} bytes): nothing is taken until something is sent"
        used, most = self._failed.used, self._settings.max_failed_bytes
        if self._failed.full:
            return f"the folder failed is full ({used:,} of {most:,} bytes): nothing is taken until somebody empties it"
        if (free := shutil.disk_usage(self._settings.state).free) < self._reserved + size + LEAST_FREE_BYTES:
            return f"the disk is full ({free:,} bytes are free): nothing is taken until there is room"
        return None

    def run(self) -> None:
        """Work until `stop` is called."""
        if self._topic is not None:
            self._topic.start()
        try:
            while not self._stopping.is_set():
                self._woken.clear()
                self._turn()
                try:
                    if not self._work():
                        self._woken.wait(self._settings.poll_ms / 1000)
                except (OSError, sqlite3.OperationalError) as error:  # such as a disk that is full
                    self._tell(f"{type(error).__name__}: {error}")
                    self._stopping.wait(_PAUSE)
        finally:
            if self._topic is not None:
                self._topic.stop()

    def _tell(self, text: str) -> None:
        """Say why nothing can be done, unless it was said."""
        if self._told != text:
            self._told = text
            _log.error("cannot work as it should: %s", text)

    def _work(self) -> bool:
        """Do what there is to do, and return whether there may be more."""
        self._tidy()
        if self._topic is not None:
            self._attend(self._topic)
        waiting = self._outbox.waiting(self._batch, MAX_BATCH_BYTES)
        if not waiting and self._take():
            waiting = self._outbox.waiting(self._batch, MAX_BATCH_BYTES)
        if waiting:
            self._score(waiting)
        return bool(waiting)

    def _attend(self, topic: Any) -> None:  # noqa: ANN401 - its module needs paho
        """Publish answers, and have messages again that were not taken once there is room."""
        topic.publish()
        if self._full and (left_out := self._outbox.leave_unpublished()):
            _log.error("the spool is full: %s answers that AWS has are not published", f"{left_out:,}")
        if topic.paused and time.monotonic() >= self._resume_at:
            self._resume_at = time.monotonic() + _PAUSE
            if self.has_room(0):
                topic.stop()
                topic.start()

    def _take(self) -> bool:
        """Take files that have settled, as many as are scored together, and return whether there were any."""
        taken = self._reserved = 0
        if self._folder is None:
            return False
        while (found := self._folder.oldest(self._outbox.known)) is not None:
            size = found.size if found.size <= self._settings.max_item_bytes else 0
            if not self.has_room(size):
                break
            self._folder.pass_by(found)
            if self._take_file(self._folder, found):
                taken += 1
                self._reserved += size + ROW_BYTES
            if taken >= self._settings.max_batch or self._stopping.is_set():
                break
        return taken > 0

    def _take_file(self, folder: WatchedFolder, found: FoundFile) -> bool:
        try:
            digest = folder.digest(found, self._settings.max_item_bytes)
        except ChangedError:  # it is found again
            return False
        except OSError as error:
            folder.refuse(found, error)
            return False
        self._outbox.take_file(
            found.path, found.stamp, key=found.key, digest=digest, size=found.size, event_time=found.time
        )
        return True

    def _score(self, waiting: Sequence[Record]) -> None:
        """Score items, and note their answers."""
        if self._owed:
            self._outbox.put_back(self._owed)
            self._owed = []
            return  # what is waiting was read before
        answers: list[Answer] = []
        items: dict[int, tuple[Record, bytes]] = {}
        for record in waiting:
            if record.tries >= MAX_TRIES:
                self._set_aside(record, f"it ended the process, or failed, {record.tries} times")
            elif record.size > (most := self._settings.max_item_bytes):
                reason = f"object has {record.size:,} bytes, at most {most:,} are read"
                try:
                    answers.append(self._answers.rejected(record, reason))
                except MalformedMessageError as error:  # such as a path that is too long for a row
                    self._set_aside(record, reason_of(error))
            elif (data := self._bytes(record)) is not None:
                items[record.sequence] = record, data
        if items:
            answers += self._answered_of(items)
        if answers:
            self._note(answers)

    def _answered_of(self, items: dict[int, tuple[Record, bytes]]) -> list[Answer]:
        """Return the answers of items, and deal with those that have none."""
        records = [record for record, _ in items.values()]
        self._outbox.begin(records)
        try:
            answers, broken, again = self._answers.of(items)
        except OSError:  # bytes cannot be kept, for which no item is to blame
            self._owed += records
            raise
        self._learn(late=self._answers.late)
        for sequence, reason in broken.items():
            self._blame(items[sequence][0], reason)
        if again:
            self._owed += again
            if not answers:
                self._stopping.wait(_PAUSE)
        return answers

    def _learn(self, *, late: bool) -> None:
        """Make batches smaller after one that was late, and larger after many in time."""
        self._in_time = 0 if late else self._in_time + 1
        if late:
            self._batch = max(1, self._batch // 2)
        elif self._in_time >= IN_TIME:
            self._batch, self._in_time = min(self._settings.max_batch, self._batch * 2), 0

    def _blame(self, record: Record, reason: str) -> None:
        """Set an item aside that failed so often; others are scored again."""
        if record.tries + 1 >= MAX_TRIES:
            self._set_aside(record, reason)
        else:
            _log.warning("%s failed and is tried again: %s", record.shown, reason)

    def _bytes(self, record: Record) -> bytes | None:
        """Return the bytes of an item, or None if it is not to be scored."""
        try:
            if record.spool is not None:
                return bytes(self._spool.mapped(record.spool, record.digest))
            if self._folder is not None and record.path is not None and record.stamp is not None:
                return self._folder.read(record.path, record.stamp)
        except (ChangedError, PermissionError) as error:
            _log.warning("%s is not scored: %s", record.shown, error)
            self._outbox.drop(record)
            return None
        except SpoolError as error:
            self._set_aside(record, str(error))
            return None
        _log.warning("%s is not scored: its folder is not watched any more", record.shown)
        self._outbox.drop(record)
        return None

    def _set_aside(self, record: Record, reason: str) -> None:
        """Move an item to `failed`: in the watched folder, or in that of the state."""
        _log.error("%s is set aside in the folder failed: %s", record.shown, reason)
        if record.spool is not None:
            self._spool.move_aside(record.spool)
        gone = self._folder is None or self._folder.set_aside(record)
        self._outbox.fail(record, gone=gone)
        self._failed.add(record.size)

    def _note(self, answers: Sequence[Answer]) -> None:
        """Note answers, and tell programs on the device and whoever sends."""
        if self._lines is not None:
            try:
                self._lines.write([answer.told for answer in answers])
            except OSError as error:  # the cloud gets them nevertheless
                self._tell(f"answers are not written to RESULTS_FOLDER: {error}")
        try:
            self._outbox.answer(answers)
        except sqlite3.OperationalError:  # such as on a disk that is full, for which no item is to blame
            self._owed += [answer.record for answer in answers]
            raise
        self._answered()

    def _tidy(self) -> None:
        """Remove files that were kept long enough, which makes room, and remove or move those of answered items."""
        self._done.tidy()
        self._failed.tidy(again_seconds=_PAUSE if self._failed.full else TIDY_SECONDS)
        if self._folder is not None and (records := self._outbox.answered_files(MAX_TIDIED)):
            gone = [record for record in records if self._folder.finish(record)]
            if gone:
                self._outbox.file_gone(gone)
                self._done.add(sum(record.size for record in gone))


def _kept(settings: Settings) -> tuple[KeptFiles, KeptFiles]:
    """Return the files that are done, and those that failed, of which none is removed to make room."""
    done, failed = [], [settings.state / FAILED]
    if settings.watched is not None:
        failed.append(settings.watched / FAILED)
        if settings.after == MOVE:
            done.append(settings.watched / DONE)
    return (
        KeptFiles(*done, seconds=settings.done_days * _DAY, max_bytes=settings.max_done_bytes, removes=True),
        KeptFiles(*failed, seconds=settings.failed_days * _DAY, max_bytes=settings.max_failed_bytes, removes=False),
    )
