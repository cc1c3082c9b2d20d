"""The files of a project that say what is deployed, and which of them have changed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.cache import cache_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FileState = tuple[int, int]
"""Time of modification in nanoseconds, and size in bytes."""

# Tools make these, and a synth does not read them.
_FOLDERS = frozenset({"__pycache__", "node_modules", "cdk.out"})
# Editors write these for a moment, and a synth writes some itself; and prose.
_FILES = re.compile(r".*~|#.*#|4913|.*\.(swp|swx|tmp|part|pyc|log|md|rst)|cdk\.context\.json|.*\.lock\.json", re.DOTALL)


def scan(folder: Path) -> dict[str, FileState]:
    """Return the files of a project, by their path in it.

    Hidden files and folders, virtual environments, caches, ``cdk.out``, documentation and what a synth writes itself
    are not among them.

    Parameters
    ----------
    folder
        The project's folder.
    """
    found: dict[str, FileState] = {}
    for path in folders(folder):
        try:
            entries = list(os.scandir(path))
        except OSError:  # it is gone since, or not for us
            continue
        for entry in entries:
            if entry.name.startswith(".") or _FILES.fullmatch(entry.name):
                continue
            try:
                if entry.is_file():
                    state = entry.stat()
                    found[Path(entry.path).relative_to(folder).as_posix()] = (state.st_mtime_ns, state.st_size)
            except OSError:
                continue
    return found


def folders(folder: Path) -> Iterator[Path]:
    """Yield the folders of a project whose files count, itself among them.

    Parameters
    ----------
    folder
        The project's folder.
    """
    cache = cache_root()  # it may be in the project
    for path, names, _ in os.walk(folder):
        yield Path(path)
        names[:] = [name for name in names if not _is_left_out(found := Path(path, name)) and found != cache]


def changed(before: Mapping[str, FileState], after: Mapping[str, FileState]) -> set[str]:
    """Return the paths of files that are new, gone or different.

    Parameters
    ----------
    before, after
        Results of `scan`.
    """
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def _is_left_out(folder: Path) -> bool:
    name = folder.name
    return name.startswith(".") or name in _FOLDERS or name.endswith(".egg-info") or (folder / "pyvenv.cfg").exists()
