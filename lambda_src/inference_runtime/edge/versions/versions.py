"""Versions of the package in folders, and the link `current` to the one that runs.

A folder gets its name once it is complete and on the disk, and the link changes in one step. So `current` names a whole
version whenever the power fails.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from inference_runtime.edge.package import FILE
from inference_runtime.edge.storage.spool import sync_folder
from inference_runtime.errors import StageError

CURRENT = "current"
"""The link to the version that runs."""

CHECK_SECONDS = 600
"""Seconds that a version's check may take."""

MAX_FILES = 20_000
MAX_BYTES = 4 * 1024**3
"""Files of a package, and their bytes, at most."""

_FOLDER = "versions"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME_DIGITS = 32
_PIECE = 1024 * 1024
_EXECUTABLE = 0o111
_log = logging.getLogger(__name__)


class DamagedError(StageError):
    """The bytes are not those of the version."""


class Versions:
    """The versions of a machine.

    Parameters
    ----------
    root
        Their folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folder = root / _FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)

    def current(self) -> str | None:
        """Return the name of the version that runs, or None if there is none."""
        try:
            return (self.root / CURRENT).readlink().name
        except FileNotFoundError:
            return None

    def path(self, name: str) -> Path:
        """Return the folder of a version."""
        return self._folder / name

    def unpack(self, archive: Path, sha256: str) -> str:
        """Unpack a zip, check what is in it, and return the version's name.

        Parameters
        ----------
        archive
            The zip.
        sha256
            The SHA-256 of its bytes, in hex.

        Raises
        ------
        DamagedError
            If the zip has another SHA-256.
        StageError
            If it is unsafe, or does not work on this machine.
        OSError
            If it cannot be written.
        """
        name = name_of(sha256)
        target = self.path(name)
        if not target.exists():
            if (found := _digest(archive)) != sha256:
                raise DamagedError(f"{archive} must have the SHA-256 {sha256}, got {found}")
            self._clear()
            partial = self._folder / f".{name}.partial"
            try:
                _extract(archive, partial)
                os.sync()  # files, folders and names: a power cut must not leave a version with holes
                partial.replace(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            sync_folder(self._folder)
        self.check(name)
        return name

    def check(self, name: str) -> None:
        """Run the self-test of a version in another process.

        Raises
        ------
        StageError
            If it fails.
        InterruptedError
            If it was ended before it could tell.
        """
        folder = self.path(name)
        own = dict.fromkeys(("PYTHONPATH", "PACKAGE_ROOT", "LAMBDA_TASK_ROOT"), str(folder))
        command = [sys.executable, "-m", "inference_runtime.edge", "check"]
        try:
            done = subprocess.run(  # noqa: S603 - the version's code
                command, cwd=folder, env={**os.environ, **own}, check=False, timeout=CHECK_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise InterruptedError(f"the check of {name} took longer than {CHECK_SECONDS} s") from error
        if done.returncode < 0:  # such as for want of memory, next to the agent that works
            raise InterruptedError(f"the check of {name} was ended by signal {-done.returncode}")
        if done.returncode != 0:
            raise StageError(f"the version {name} must pass its check, got exit code {done.returncode}")

    def use(self, name: str) -> None:
        """Make a version the one that runs, and remove all but it and the one before."""
        before = self.current()
        link = self.root / f".{CURRENT}.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(_FOLDER) / name)
        link.replace(self.root / CURRENT)
        sync_folder(self.root)
        _log.info("current is %s, and was %s", name, before)
        if before != name:
            for folder in list(self._folder.iterdir()):
                if folder.name not in {name, before} and not folder.name.startswith("."):
                    folder.replace(folder.with_name(f".{folder.name}.partial"))  # in one step, unlike what follows
            self._clear()

    def _clear(self) -> None:
        """Remove what is half unpacked, or half removed."""
        for folder in self._folder.glob(".*.partial"):
            shutil.rmtree(folder)


def name_of(sha256: str) -> str:
    """Return the name of the version whose zip has this SHA-256.

    Raises
    ------
    StageError
        If it is none.
    """
    if not _SHA256.fullmatch(sha256):
        raise StageError(f"sha256 must be 64 lower-case hex digits, got {sha256!a:.100}")
    return sha256[:_NAME_DIGITS]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(archive: Path, folder: Path) -> None:
    """Unpack regular files, which must lie below the folder."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise StageError(f"{archive} must have at most {MAX_FILES:,} files and {MAX_BYTES:,} bytes")
            for entry in entries:
                target = folder / _safe(entry)
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(entry) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, _PIECE)
                if entry.external_attr >> 16 & _EXECUTABLE:
                    target.chmod(0o755)
    except (zipfile.BadZipFile, FileExistsError, NotImplementedError, RuntimeError) as error:  # such as a name twice
        raise StageError(f"cannot unpack {archive}: {error}") from error
    if not (folder / FILE).is_file():
        raise StageError(f"{archive} must have {FILE}; is it the package of a device?")


def _safe(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Return the path of an entry, below the folder."""
    path = PurePosixPath(entry.filename)
    mode = entry.external_attr >> 16
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in entry.filename
        or not path.parts
        or stat.S_IFMT(mode) not in {0, stat.S_IFREG}
    ):
        raise StageError(f"the zip's entry must be a file below its folder, got {entry.filename!a:.200}")
    return path
