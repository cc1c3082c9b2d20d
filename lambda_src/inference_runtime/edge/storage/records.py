"""A record of an item, as a row of the device's database has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3

FOLDER, TOPIC = "folder", "topic"
"""The inputs that items come from."""

SCHEMA_VERSION = 1
"""A version that changes it must leave the database readable for the one before, which a rollback brings back."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
  sequence INTEGER PRIMARY KEY,
  input TEXT NOT NULL CHECK (input IN ('folder', 'topic')),
  key TEXT NOT NULL,
  digest TEXT NOT NULL,
  size INTEGER NOT NULL,
  event_time TEXT NOT NULL,
  path BLOB,
  stamp TEXT,
  spool TEXT,
  spool_bytes INTEGER NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL CHECK (state IN ('taken', 'answered', 'sent', 'failed')),
  pending TEXT CHECK (pending IN ('row', 'object')),
  answer TEXT,
  to_publish INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_state ON items (state, pending, sequence);
CREATE INDEX IF NOT EXISTS with_file ON items (sequence) WHERE path IS NOT NULL;
CREATE INDEX IF NOT EXISTS unpublished ON items (sequence) WHERE to_publish = 1;
CREATE INDEX IF NOT EXISTS were_sent ON items (sequence) WHERE state = 'sent';
CREATE INDEX IF NOT EXISTS by_key ON items (input, key);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counts VALUES ('used', 0), ('last_sequence', 0);
CREATE TRIGGER IF NOT EXISTS inserted AFTER INSERT ON items BEGIN
  UPDATE counts SET value = value + NEW.spool_bytes + COALESCE(LENGTH(NEW.answer), 0) WHERE name = 'used';
  UPDATE counts SET value = MAX(value, NEW.sequence) WHERE name = 'last_sequence';
END;
CREATE TRIGGER IF NOT EXISTS updated AFTER UPDATE OF spool_bytes, answer ON items BEGIN
  UPDATE counts SET value = value + NEW.spool_bytes + COALESCE(LENGTH(NEW.answer), 0)
    - OLD.spool_bytes - COALESCE(LENGTH(OLD.answer), 0) WHERE name = 'used';
END;
CREATE TRIGGER IF NOT EXISTS deleted AFTER DELETE ON items BEGIN
  UPDATE counts SET value = value - OLD.spool_bytes - COALESCE(LENGTH(OLD.answer), 0) WHERE name = 'used';
END;
"""
"""`path` and `stamp` are those of a file in the watched folder that was not removed or moved yet.

`used` counts the bytes of items and rows that wait, and `last_sequence` is the highest number that was given.
"""


@dataclass(frozen=True)
class Record:
    """The device's knowledge of an item.

    Attributes
    ----------
    sequence
        Orders the items of the device; later ones have higher numbers, whatever the clock does.
    input
        `FOLDER` or `TOPIC`.
    key
        Path in the watched folder, or the topic and the digest.
    digest
        SHA-256 of the item's bytes, in hex. One that is too large to be read has that of its size and time.
    size
        Bytes of the item.
    event_time
        ISO 8601.
    path, stamp
        The path in the watched folder and the file's size, time and inode; None once it was removed or moved.
    spool, spool_bytes
        Name and size of the file that has the bytes, if there is one.
    tries
        How often it was begun to be scored.
    state
        ``taken``, ``answered``, ``sent``, or ``failed`` with a file that cannot be moved.
    pending
        The thing to send, ``row`` or ``object``; None if it is sent.
    answer
        `row`, in DynamoDB's types with bytes in base64; `clock`, whether the clock was set; and `told`, if the answer
        is to be published.
    """

    sequence: int
    input: str
    key: str
    digest: str
    size: int
    event_time: str
    path: bytes | None = None
    stamp: str | None = None
    spool: str | None = None
    spool_bytes: int = 0
    tries: int = 0
    state: str = "taken"
    pending: str | None = None
    answer: dict[str, Any] | None = None

    @property
    def shown(self) -> str:
        """The key for logs: one line, whatever the file is called."""
        return f"{self.key!a:.{_MOST_SHOWN}}"

    @classmethod
    def of(cls, row: sqlite3.Row) -> Record:
        """Read a row of the table `items`."""
        answer = row["answer"]
        return cls(
            **{name: row[name] for name in _COLUMNS},
            answer=None if answer is None else json.loads(answer),
        )


_MOST_SHOWN = 300
_COLUMNS = (
    *("sequence", "input", "key", "digest", "size", "event_time", "path", "stamp", "spool", "tries", "state"),
    *("pending", "spool_bytes"),
)
