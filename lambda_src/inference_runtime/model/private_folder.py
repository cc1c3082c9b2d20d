"""A folder for temporary files that belongs to this user alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from inference_runtime.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path


def private_folder(parent: Path) -> Path:
    """Return this user's folder in a folder where others may write, too; it is made if it is not there.

    All functions of the runtime share it. Its name is known, so that somebody else may have been there before.

    Raises
    ------
    StageError
        If it belongs to somebody else, or others may write there.
    """
    folder = parent / f"cdk-inference-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()  # of a link, it is the link's owner that counts
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise StageError(f"{folder} belongs to somebody else, or others may write there: remove it, or set TMPDIR")
    return folder
