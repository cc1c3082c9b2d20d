"""Opens the database of a device, and moves one that is broken out of the way."""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOG_PAGES = 250
"""Pages of 4 KiB that the log has before it is copied to the database: on a disk that is nearly full, all count."""

KEPT_BROKEN = 3
"""Broken databases that are kept, the latest ones."""

_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_log = logging.getLogger(__name__)


def opened(path: Path) -> sqlite3.Connection:
    """Open a database, which is made if it is not there."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    return connection


def is_whole(path: Path) -> bool:
    """Return whether SQLite finds no fault with a database."""
    try:
        connection = opened(path)
        try:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in _BROKEN:  # such as a disk that is full
            raise
        found = str(error)
    if found != "ok":
        _log.error("the database is broken: %s", found)
    return bool(found == "ok")


def move_aside(path: Path) -> None:
    """Move a broken database aside, and say what that means."""
    target = path.with_name(f"broken-{time.time_ns()}.db")
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(f"{path.name}{suffix}")
        if part.exists():
            part.replace(target.with_name(f"{target.name}{suffix}"))
    for older in sorted(path.parent.glob("broken-*.db"))[:-KEPT_BROKEN]:
        older.unlink()
    _log.error(
        "the broken database was moved to %s: rows that were not sent are in there alone, and items of the spool are"
        " scored again",
        target,
    )
