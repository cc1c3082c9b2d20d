"""Content-addressed folders: made once, appear whole, are checked when read, and make room for newer ones.

Several processes and machines may share a store: an entry appears by a rename. A process that comes second with the
same entry discards its copy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.cache import hash_folder
from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_GB = 10.0
"""Default limit of the whole cache; ``$CDK_INFERENCE_CACHE_LIMIT_GB`` sets another."""

GRACE_SECONDS = 3600.0
"""Keep entries that were used this recently, since a build may be reading them."""

ABANDONED_SECONDS = 86400.0
"""Remove entries that are still half made after this: their process died."""

PARTIAL = ".partial-"
"""Begins the name of what is half made."""

KINDS = ("models", "passes", "files", "bundles", "bytecode", "deflated")
"""The folders of the cache. Each of their members is one entry."""

_DIGEST = ".sha256"


class Store:
    """Entries of one kind.

    Parameters
    ----------
    folder
        Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> Path | None:
        """Return the folder of an entry, if it is there and whole; a damaged one is removed."""
        entry = self._folder / key
        try:
            expected = (entry / _DIGEST).read_text("ascii")
            if hash_folder(entry, ignored=_DIGEST.__eq__) == expected:
                touch(entry)
                return entry
        except (OSError, ValueError):
            pass
        if entry.exists():
            shutil.rmtree(entry, ignore_errors=True)
        return None

    def make(self, key: str, fill: Callable[[Path], None]) -> Path:
        """Return the folder of an entry, filled if it is not there yet.

        Parameters
        ----------
        key
            Name of the entry, made from all that its content depends on.
        fill
            Writes files into an empty folder.
        """
        if (found := self.get(key)) is not None:
            return found
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self._folder))
        entry = self._folder / key
        try:
            partial.chmod(0o777 & ~_umask())  # mkdtemp makes it private, and the cache may be shared
            fill(partial)
            (partial / _DIGEST).write_text(hash_folder(partial), "ascii")
            try:
                partial.rename(entry)
            except OSError:
                if self.get(key) is None:  # no other process was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return entry


def touch(entry: Path) -> None:
    """Note that an entry was used; a cache that cannot be written has nothing to make room for."""
    try:
        os.utime(entry)
    except OSError:
        return


def limit_bytes() -> float:
    """Return how large the cache may be.

    Raises
    ------
    ModelBuildError
        If ``$CDK_INFERENCE_CACHE_LIMIT_GB`` is not a number above 0.
    """
    value = os.environ.get("CDK_INFERENCE_CACHE_LIMIT_GB", "")
    with contextlib.suppress(ValueError):
        if (limit := float(value or LIMIT_GB)) > 0:
            return limit * 1e9
    raise ModelBuildError(f"CDK_INFERENCE_CACHE_LIMIT_GB must be a number of gigabytes above 0, got {value!r}")


def entries(root: Path) -> Iterator[tuple[Path, float, int]]:
    """Yield entry, time of last use and size in bytes of everything in the cache that nobody is making."""
    for kind in KINDS:
        folder = root / kind
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.suffix == ".lock":
                continue  # somebody may hold it, and who opens it anew would not see that
            try:
                used = entry.stat().st_mtime
                if entry.name.startswith(".") and time.time() - used < ABANDONED_SECONDS:
                    continue  # being made
                yield entry, used, _size(entry)
            except FileNotFoundError:
                continue  # removed by someone else


def prune(root: Path, limit: float, *, grace: float = GRACE_SECONDS) -> int:
    """Remove the entries that were not used for longest until the cache is within its limit.

    Parameters
    ----------
    root
        The cache.
    limit
        In bytes; 0 clears the cache.
    grace
        Seconds for which an entry is safe after its last use.

    Returns
    -------
    int
        Bytes that were freed.
    """
    found = sorted(entries(root), key=lambda entry: entry[1])
    total = sum(size for _, _, size in found)
    freed = 0
    for entry, used, size in found:
        if total - freed <= limit or (grace and time.time() - used < grace):
            break
        with contextlib.suppress(OSError):  # in use, or somebody else's
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            freed += size
    return freed


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
