"""Answers for programs on the device: lines of JSON, in one file a day."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from inference_runtime.anywhere.json_lines import plain_row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEPT_FILES = 30
"""Days whose answers are kept, so that no disk fills up over the years."""

_PIECE = 4_096
_FILES = "results-????-??-??.jsonl"


def told(row: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return what programs on the device learn of an answer.

    Parameters
    ----------
    row
        In DynamoDB's types.
    kind
        ``sure``, ``escalated`` or ``rejected``.
    """
    return {**plain_row(row), "decision": kind}


class ResultLines:
    """Writes answers before they are noted. After a crash, the last ones come again, with the same `id`.

    Parameters
    ----------
    folder
        Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def write(self, answers: Sequence[dict[str, Any]]) -> None:
        """Write lines, and return once they are on the disk.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        lines = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers).encode()
        path = self._folder / f"results-{datetime.now(UTC):%Y-%m-%d}.jsonl"
        if not path.exists():
            for older in sorted(self._folder.glob(_FILES))[: -KEPT_FILES + 1]:
                older.unlink(missing_ok=True)
        with path.open("ab+") as file:
            size = _end_of_lines(file)
            file.truncate(size)
            try:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)  # half a line would spoil the next one
                raise


def _end_of_lines(file: BinaryIO) -> int:
    """Return where the last whole line ends: a power cut may have left half a line, which comes again."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _PIECE)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
