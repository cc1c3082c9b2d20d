"""Space on the disk that is set aside, so that what was sent can be noted on a full one.

Without it, a device whose disk is full would stay so for ever. Bytes of items are removed once it is noted that they
were sent, and that takes some pages of the database.
"""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BYTES = 4 * 1024**2
"""Bytes that are set aside. The database's log has 1 MB, which is copied to the database before it is emptied."""

_LEAST_BYTES = 64 * 1024  # fewer are of no use
_log = logging.getLogger(__name__)


class Reserve:
    """A file that has nothing but its size.

    Parameters
    ----------
    folder
        Its folder, on the disk that it sets space aside of.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "reserve"

    def restore(self) -> None:
        """Set space aside, as much as there is."""
        try:
            have = self._path.stat().st_size if self._path.exists() else 0
            size = min(BYTES, have + shutil.disk_usage(self._path.parent).free)
            if size - have < min(_LEAST_BYTES, BYTES - have) or size <= have:
                return
            with self._path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:  # somebody was faster
            _log.debug("no space is set aside: %s", error)

    def release(self) -> bool:
        """Give the space back to the disk, and return whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        _log.warning("the disk is full: space that was set aside is used to note what was sent")
        return True
