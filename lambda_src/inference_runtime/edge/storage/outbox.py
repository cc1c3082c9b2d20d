"""The records of items in SQLite: what was taken, what was answered, and what is still to be sent.

Commits that decide are on the disk before they return. The others may be lost in a power cut, and are made again: that
an item was begun, or that its file was removed.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from inference_runtime.edge.storage.database import is_whole, move_aside, opened
from inference_runtime.edge.storage.records import FOLDER, SCHEMA, SCHEMA_VERSION, TOPIC, Record
from inference_runtime.edge.storage.reserve import Reserve
from inference_runtime.edge.storage.spool import SpoolError, sync_folder
from inference_runtime.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from inference_runtime.edge.storage.spool import Spool

COUNTS = ("taken", "sure", "escalated", "rejected", "failed", "sent")
"""The counts since the device began."""

KEPT_KEYS = 1_000
"""Sent items of topics that are remembered: a broker sends a message again whose acknowledgement was lost."""

_HEADER = {"sequence": int, "input": str, "key": str, "digest": str, "size": int, "event_time": str}
_MOST_NUMBER = 2**63  # of SQLite
_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """How an item ended.

    Attributes
    ----------
    record
        The item.
    text
        The JSON of `Record.answer`.
    told
        The answer for programs on the device.
    kind
        ``sure``, ``escalated`` or ``rejected``.
    pending
        The thing to send, ``row``, ``object`` or nothing.
    spool, spool_bytes
        The file with its bytes, if they are still needed.
    publish
        Whether the answer is to be published to a topic.
    """

    record: Record
    text: str
    told: dict[str, Any]
    kind: str
    pending: str | None
    spool: str | None
    spool_bytes: int
    publish: bool


class Outbox:
    """The database; thread-safe.

    Parameters
    ----------
    folder
        Where the database is, and where a broken one is moved aside.
    spool
        Has the bytes. Its files that no record knows are removed, or, if the database was lost, taken again.

    Raises
    ------
    StageError
        If a newer version of the agent made it.
    sqlite3.OperationalError
        If it cannot be opened now, such as on a disk that is full.
    """

    def __init__(self, folder: Path, spool: Spool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = RLock()
        self._spool = spool
        self._reserve = Reserve(folder)
        try:
            self._open(folder)
        except sqlite3.OperationalError:  # SQLite shares memory by a file, which takes space
            if not self._reserve.release():
                raise
            self._open(folder)
        self._reserve.restore()

    def _open(self, folder: Path) -> None:
        path, recovering = folder / "outbox.db", folder / "recovering"
        if not path.exists() or not is_whole(path):
            recovering.touch()  # outlasts a process that ends before everything is taken again
            sync_folder(folder)
            if path.exists():
                move_aside(path)
        self._connection = opened(path)
        self._connection.execute("PRAGMA synchronous = FULL")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StageError(
                f"{path} must have version {SCHEMA_VERSION} at most, got {version}; install a newer version"
            )
        self._connection.executescript(f"{SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
        self._last = self._count("last_sequence")
        self._reconcile(recover=recovering.exists())
        recovering.unlink(missing_ok=True)

    @property
    def used(self) -> int:
        """Bytes of items and rows that wait."""
        return self._count("used")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def known(self) -> dict[bytes, str]:
        """Return the stamps of the files in the watched folder that have a record, by path."""
        rows = self._all("SELECT path, stamp FROM items WHERE path IS NOT NULL")
        return {row["path"]: row["stamp"] for row in rows}

    def has(self, input_: str, key: str) -> bool:
        """Return whether there is a record of this key."""
        return bool(self._all("SELECT 1 FROM items WHERE input = ? AND key = ? LIMIT 1", input_, key))

    def take_file(self, path: bytes, stamp: str, *, key: str, digest: str, size: int, event_time: str) -> None:
        """Note a file of the watched folder. Its bytes stay there."""
        record = Record(self._next(), FOLDER, key, digest, size, event_time, path=path, stamp=stamp)
        with self._commit():  # a power cut leaves the file, which is found again
            self._insert(record, 0)

    def take_message(self, data: bytes, *, size: int, key: str, digest: str, event_time: str) -> None:
        """Note a message of a topic, with its bytes; it may be acknowledged then."""
        sequence = self._next()
        record = Record(sequence, TOPIC, key, digest, size, event_time, spool=f"{digest}-{sequence}")
        _, spool_bytes = self.keep_bytes(record, data)
        with self._commit(durable=True):
            self._insert(record, spool_bytes)

    def waiting(self, most: int, most_bytes: int) -> list[Record]:
        """Return what is to be scored next, in order.

        Items that were begun before, and may have ended the process, come first and alone.
        """
        query = "SELECT * FROM items WHERE state = 'taken' ORDER BY tries = 0, sequence LIMIT ?"
        found: list[Record] = []
        size = 0
        for record in map(Record.of, self._all(query, most)):
            size += record.size
            if found and (record.tries or found[0].tries or size > most_bytes):
                break
            found.append(record)
        return found

    def begin(self, records: Sequence[Record]) -> None:
        """Note that items are being scored. It outlasts the process, if not a power cut."""
        with self._commit():
            self._each("UPDATE items SET tries = tries + 1 WHERE sequence = ?", records)

    def put_back(self, records: Sequence[Record]) -> None:
        """Note that items were not scored, and are not to blame."""
        with self._commit():
            self._each("UPDATE items SET tries = MAX(0, tries - 1) WHERE sequence = ?", records)

    def drop(self, record: Record) -> None:
        """Forget an item whose file was removed or written anew before it was scored."""
        with self._commit():
            self._each("DELETE FROM items WHERE sequence = ?", [record])

    def keep_bytes(self, record: Record, data: bytes) -> tuple[str, int]:
        """Write the bytes of an item, and return the name and the size of its file in the spool."""
        name = f"{record.digest}-{record.sequence}"
        return name, self._spool.put(name, {member: getattr(record, member) for member in _HEADER}, data)

    def answer(self, answers: Sequence[Answer]) -> None:
        """Note the answers of items. From here on, they are sent whatever happens."""
        values = [
            (
                *("answered" if found.pending else "sent", found.pending),
                *(found.text, found.spool, found.spool_bytes, found.publish, found.record.sequence),
            )
            for found in answers
        ]
        with self._commit(durable=True):
            self._connection.executemany(
                "UPDATE items SET state = ?, pending = ?, answer = ?, spool = ?, spool_bytes = ?, to_publish = ?"
                " WHERE sequence = ?",
                values,
            )
            for found in answers:
                self._add(found.kind, 1)
            self._tidy()
        for found in answers:
            if found.spool is None and found.record.spool is not None:
                self._spool.remove(found.record.spool)

    def fail(self, record: Record, *, gone: bool) -> None:
        """Note that an item was set aside; one whose file is not gone is remembered, so that it is not taken again."""
        with self._commit(durable=True):
            if gone:
                self._each("DELETE FROM items WHERE sequence = ?", [record])
            else:
                self._each("UPDATE items SET state = 'failed', pending = NULL WHERE sequence = ?", [record])
            self._add("failed", 1)

    def to_send(self, kind: str, most: int) -> list[Record]:
        """Return the oldest items of which a ``row`` or an ``object`` is to be sent."""
        return self._records("state = 'answered' AND pending = ?", most, kind)

    def sent(self, records: Sequence[Record], *, counted: str = "sent") -> None:
        """Note that items were sent, or ``failed`` for good, and remove their bytes.

        A full disk does not keep it from that, because nothing else would make room.
        """
        try:
            self._note_sent(records, counted)
        except sqlite3.OperationalError:
            if not self._reserve.release():
                raise
            self._checkpoint()
            self._note_sent(records, counted)
            self._checkpoint()
        self._reserve.restore()

    def _checkpoint(self) -> None:
        """Copy the log of the database to it, and make the log empty."""
        with self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _note_sent(self, records: Sequence[Record], counted: str) -> None:
        with self._commit(durable=True):
            self._each(
                "UPDATE items SET state = 'sent', pending = NULL, spool = NULL, spool_bytes = 0 WHERE sequence = ?",
                records,
            )
            self._add(counted, len(records))
            self._tidy()
        for record in records:
            if record.spool is not None:
                self._spool.remove(record.spool)

    def to_publish(self, most: int) -> list[Record]:
        """Return the oldest items whose answers are to be published."""
        return self._records("to_publish = 1 AND state <> 'taken'", most)

    def published(self, record: Record) -> None:
        """Note that an answer was published."""
        with self._commit():
            self._each("UPDATE items SET to_publish = 0 WHERE sequence = ?", [record])
            self._tidy()

    def leave_unpublished(self) -> int:
        """Publish no more what was sent, to make room for what was not, and return how many answers that are."""
        waiting = "to_publish = 1 AND state = 'sent'"
        if not self._all(f"SELECT 1 FROM items WHERE {waiting} LIMIT 1"):  # noqa: S608 - no input is in it
            return 0
        with self._commit():
            count = self._connection.execute(f"UPDATE items SET to_publish = 0 WHERE {waiting}").rowcount  # noqa: S608
            self._tidy()
        return count

    def answered_files(self, most: int) -> list[Record]:
        """Return answered items whose files are still in the watched folder."""
        # The plus keeps SQLite from the index of states, which has everything that waits for the network.
        return self._records("path IS NOT NULL AND +state IN ('answered', 'sent')", most)

    def file_gone(self, records: Sequence[Record]) -> None:
        """Note that files were removed or moved."""
        with self._commit():
            self._each("UPDATE items SET path = NULL, stamp = NULL WHERE sequence = ?", records)
            self._tidy()

    def counts(self) -> dict[str, int]:
        """Return what was counted since the device began."""
        return {name: self._count(name) for name in COUNTS}

    def backlog(self) -> dict[str, int | None]:
        """Return how many items wait for scoring and for the network, and the sequence of the oldest."""
        (row,) = self._all(
            "SELECT COUNT(*) FILTER (WHERE state = 'taken') AS to_score,"
            " COUNT(*) FILTER (WHERE pending = 'row') AS rows,"
            " COUNT(*) FILTER (WHERE pending = 'object') AS objects,"
            " MIN(sequence) AS oldest FROM items WHERE state IN ('taken', 'answered')"
        )
        return dict(row)

    def _all(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _records(self, condition: str, most: int, *values: object) -> list[Record]:
        query = f"SELECT * FROM items WHERE {condition} ORDER BY sequence LIMIT ?"  # noqa: S608 - no input is in it
        return [Record.of(row) for row in self._all(query, *values, most)]

    def _next(self) -> int:
        """Return a number that is higher than all before: nanoseconds since 1970, unless the clock was set back."""
        with self._lock:
            self._last = max(self._last + 1, time.time_ns())
            return self._last

    def _insert(self, record: Record, spool_bytes: int) -> None:
        self._connection.execute(
            "INSERT INTO items (sequence, input, key, digest, size, event_time, path, stamp, spool, spool_bytes, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'taken')",
            (
                *(record.sequence, record.input, record.key, record.digest, record.size, record.event_time),
                *(record.path, record.stamp, record.spool, spool_bytes),
            ),
        )
        self._add("taken", 1)

    def _each(self, statement: str, records: Sequence[Record]) -> None:
        self._connection.executemany(statement, [(record.sequence,) for record in records])

    def _tidy(self) -> None:
        """Forget what nothing is left to do for, but the latest keys of topics."""
        # SQLite would take the index of states, or none, and look at all that waits for the network.
        done = "to_publish = 0 AND path IS NULL"
        self._connection.execute(
            "UPDATE items INDEXED BY were_sent SET answer = NULL"
            " WHERE state = 'sent' AND to_publish = 0 AND answer IS NOT NULL"
        )
        self._connection.execute(
            f"DELETE FROM items INDEXED BY were_sent WHERE state = 'sent' AND {done} AND input = 'folder'"  # noqa: S608
        )
        self._connection.execute(
            f"DELETE FROM items INDEXED BY were_sent WHERE state = 'sent' AND {done}"  # noqa: S608
            " AND sequence <= (SELECT sequence FROM items INDEXED BY were_sent"
            f" WHERE state = 'sent' AND {done} ORDER BY sequence DESC LIMIT 1 OFFSET ?)",
            (KEPT_KEYS,),
        )

    def _count(self, name: str) -> int:
        found = self._all("SELECT value FROM counts WHERE name = ?", name)
        return int(found[0]["value"]) if found else 0

    def _add(self, name: str, number: int) -> None:
        self._connection.execute(
            "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, number),
        )

    @contextmanager
    def _commit(self, *, durable: bool = False) -> Iterator[None]:
        """Commit what is done inside, on the disk if it must outlast a power cut."""
        with self._lock:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _reconcile(self, *, recover: bool) -> None:
        """Make the records and the files of the spool agree."""
        recorded = {row["spool"] for row in self._all("SELECT spool FROM items WHERE spool IS NOT NULL")}
        sizes = self._spool.sizes()
        for name in sorted(sizes.keys() - recorded):
            if not recover:  # the process was killed before it noted the item, which comes again
                self._spool.remove(name)
                continue
            try:
                self._take_again(name, sizes[name])
            except (SpoolError, ValueError, sqlite3.IntegrityError) as error:
                target = self._spool.move_aside(name)
                _log.error("nobody knows what a file of the spool is, it was moved to %s: %s", target, error)

    def _take_again(self, name: str, size: int) -> None:
        """Take the bytes of an item whose record is lost."""
        told = self._spool.header(name)
        for member, kind in _HEADER.items():
            value = told.get(member)
            if not isinstance(value, kind) or (isinstance(value, int) and not 0 <= value < _MOST_NUMBER):
                raise SpoolError(f"the spool's file {name} is damaged: its {member} is {value!r:.100}")
        record = Record(**{member: told[member] for member in _HEADER}, spool=name)
        with self._commit(durable=True):
            self._insert(record, size)
        self._last = max(self._last, record.sequence)
        _log.warning("taken again, since its record was lost: %s", record.shown)
