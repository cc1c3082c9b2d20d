"""Files that a reader finds whole, or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a text, in UTF-8 and with the line ends as they are; an interrupted write leaves the file as it was.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(text, "utf-8", newline="\n")
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
