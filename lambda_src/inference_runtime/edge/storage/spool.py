"""The bytes of items in files: those that came by MQTT, and those that wait to be uploaded.

A file begins with a line of JSON that describes the item. If the records are lost, its bytes are scored again. It gets
its name only when it is complete and on the disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PARTIAL = ".partial"
_MOST_HEADER_BYTES = 16 * 1024


class SpoolError(Exception):
    """A file of the spool is not what was written."""


class Spool:
    """A folder with one file for each item.

    Parameters
    ----------
    folder
        It is made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        for path in folder.glob(f"*{_PARTIAL}"):  # of a process that was killed
            path.unlink()

    def put(self, name: str, header: Mapping[str, Any], data: bytes) -> int:
        """Write a file, and return its size once it is on the disk."""
        path = self._folder / name
        partial = self._folder / f"{name}{_PARTIAL}"
        line = json.dumps(header).encode() + b"\n"
        try:
            with partial.open("wb") as file:
                file.write(line)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(self._folder)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise
        return len(line) + len(data)

    def mapped(self, name: str, digest: str) -> memoryview:
        """Map the item's bytes into memory, without the header.

        Parameters
        ----------
        name
            The file's.
        digest
            SHA-256 that the bytes must have, in hex. Flash memory that wears out gives others, or none.

        Raises
        ------
        SpoolError
            If the file is gone, or has no header, or has other bytes.
        """
        try:
            with (self._folder / name).open("rb") as file:
                start = len(_header_line(file.readline(_MOST_HEADER_BYTES), name))
                # By reads: what cannot be read would end the process when it is mapped.
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise SpoolError(f"the spool's file {name} is damaged: its bytes have another SHA-256")
                # It ends with the last view of it: a request that failed may keep one for longer than this.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, ValueError) as error:  # mmap refuses an empty file
            raise SpoolError(f"the spool's file {name} is lost or damaged: {error}") from error
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise SpoolError(f"the spool's file {name} cannot be read: {error}") from error
        return memoryview(mapped)[start:]

    def header(self, name: str) -> dict[str, Any]:
        """Return what a file says that its item is.

        Raises
        ------
        SpoolError
            If it says nothing.
        """
        with (self._folder / name).open("rb") as file:
            line = _header_line(file.readline(_MOST_HEADER_BYTES), name)
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SpoolError(f"the spool's file {name} is damaged: {error}") from error
        if not isinstance(found, dict):
            raise SpoolError(f"the spool's file {name} is damaged: its header is not an object")
        return found

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is removed."""
        (self._folder / name).unlink(missing_ok=True)

    def move_aside(self, name: str) -> Path:
        """Move a file out of the way, if it is there, and return where it is."""
        target = self._folder.parent / "failed" / name
        target.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            (self._folder / name).replace(target)
        return target

    def sizes(self) -> dict[str, int]:
        """Return the sizes of the files by name."""
        return {path.name: path.stat().st_size for path in self._folder.iterdir() if path.is_file()}


def _header_line(line: bytes, name: str) -> bytes:
    if not line.endswith(b"\n"):
        raise SpoolError(f"the spool's file {name} is damaged: it has no header")
    return line


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, so that they outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
