"""Folders that Docker builds images from, the same on every machine. Nothing here needs Docker."""

from __future__ import annotations

import os
import stat
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.cache import cache_root
from cdk_inference.common.contents import content_digest, mode_of
from cdk_inference.common.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.bundling.bundle import BundledCode

# Raise this when the same inputs give another folder than before: it voids what is cached.
_FORMAT = 2
_CONTEXT = "context"
# 1980-01-01, as in our zips: Docker copies dates into the image, and CDK's fingerprint takes modes along.
_DATE = 315_532_800


def staged(files: Mapping[str, Path | bytes], *, code: BundledCode | None = None) -> Path:
    """Return a folder with these files, made once for each content.

    Parameters
    ----------
    files
        Files or their bytes, by the path in the folder.
    code
        The files for its ``code``, without bytecode: that differs between patch versions of Python.
    """

    def fill(folder: Path) -> None:
        context = folder / _CONTEXT
        for name, content in files.items():
            target = context / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            target.chmod(mode_of(content))
        if code is not None:
            _unpack(code.zip_path, context / "code")
        _normalize(context)

    unpacked = "" if code is None else code.asset_hash
    key = sha256(f"image {_FORMAT} {content_digest(files)} {unpacked}".encode()).hexdigest()
    return Store(cache_root() / "bundles").make(key, fill) / _CONTEXT


def placeholder() -> Path:
    """Return a folder for the image of a stack that is not to be bundled."""
    return staged({"Dockerfile": b"FROM scratch\n# this stack was not selected for bundling\n"})


def _unpack(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if "__pycache__" not in entry.filename.split("/"):
                Path(archive.extract(entry, folder)).chmod(entry.external_attr >> 16 & 0o777)


def _normalize(folder: Path) -> None:
    """Give a folder and everything in it the same modes and dates, whatever the umask and the clock."""
    for path in (*sorted(folder.rglob("*"), reverse=True), folder):  # a folder's date is set after those in it
        executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(0o755 if executable else 0o644)
        os.utime(path, (_DATE, _DATE))
