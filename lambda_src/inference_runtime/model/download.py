"""Downloads the function's model from S3: in ranges, several at a time, into files that are mapped into memory.

A file has its name only once its SHA-256 is that of the model that was built. Files that an earlier attempt left
half written are written anew.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inference_runtime.environment import json_variable, required
from inference_runtime.errors import RetryableError, StageError
from inference_runtime.model import DRIVER_FILE, MODEL_FILE
from inference_runtime.model.private_folder import private_folder
from inference_runtime.timeouts import MAX_CONNECTIONS

if TYPE_CHECKING:
    from inference_runtime.s3.client import S3Client

RANGE_BYTES = 8 * 1024 * 1024
"""Bytes of one request; S3's own advice is 8 to 16 MB."""

MAX_DOWNLOADS = 2
"""How often a file is downloaded whose bytes are wrong."""

_MORE_STORAGE = "give the function more ephemeral storage"
_NAME = re.compile(r"(?!.*\.partial$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger(__name__)


class _File(NamedTuple):
    name: str
    key: str
    size: int
    sha256: str


def downloaded_model(folder: Path | None = None) -> str:
    """Return the folder of the model, downloaded if it is not there yet.

    `MODEL_BUCKET` is where it comes from, and `MODEL_FILES` a JSON list of its files, each with `name`, `key`, `size`
    in bytes and `sha256`.

    Parameters
    ----------
    folder
        Where this user's folder is made, and the model's inside of it. Processes that share it download once. Default:
        `/tmp`, or `TMPDIR`.

    Raises
    ------
    StageError
        If the environment is wrong, the model does not fit the storage, or the folder is somebody else's.
    RetryableError
        If S3 does not give a file as it was built.
    """
    from inference_runtime.s3.client import s3_client  # noqa: PLC0415 - so that tests can stand in for it

    bucket, files = required("MODEL_BUCKET"), _files()
    folder = private_folder(folder or Path(os.environ.get("TMPDIR", "/tmp")))  # noqa: S108 - else nothing can be written
    target = folder / f"model-{hashlib.sha256(repr(files).encode()).hexdigest()[:32]}"
    target.mkdir(exist_ok=True)
    with (folder / f"{target.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [file for file in files if not _is_there(target / file.name, file.size)]
        if missing:
            for partial in target.glob("*.partial"):
                partial.unlink()
            _check_storage(target, sum(file.size for file in missing))
            began, objects = time.monotonic(), s3_client()
            try:
                for file in missing:
                    _download(objects, bucket, file, target)
            finally:
                objects.reset()  # that many connections are not needed again
            size, took = sum(file.size for file in missing), time.monotonic() - began
            _log.info("downloaded %.1f MB of the model in %.2f s", size / 1e6, took)
    return str(target)


def _files() -> list[_File]:
    entries = json_variable("MODEL_FILES", list)
    try:
        files = [_File(str(e["name"]), str(e["key"]), int(e["size"]), str(e["sha256"])) for e in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise StageError(f"MODEL_FILES is {json.dumps(entries):.200}: {type(error).__name__}: {error}") from error
    for file in files:
        if not _NAME.fullmatch(file.name):
            raise StageError(f"MODEL_FILES has the name {file.name!a:.200}, expected that of a file without a folder")
        if file.size < 0 or not _SHA256.fullmatch(file.sha256):
            raise StageError(f"MODEL_FILES has {file!a:.500}, expected a size and a SHA-256 in lower-case digits")
    names = [file.name for file in files]
    if len({MODEL_FILE, DRIVER_FILE}.intersection(names)) != 1 or len(set(names)) < len(names):
        raise StageError(
            f"MODEL_FILES has the names {names!a:.500}, expected {MODEL_FILE} or {DRIVER_FILE} among them, and each "
            "once"
        )
    return files


def _is_there(path: Path, size: int) -> bool:
    """Return whether a file was downloaded before: it gets its name when its bytes have been checked."""
    with suppress(OSError):
        return path.stat().st_size == size
    return False


def _check_storage(folder: Path, size: int) -> None:
    state = os.statvfs(folder)
    if (free := state.f_bavail * state.f_frsize) < size:
        raise StageError(
            f"the model has {size / 1e6:.0f} MB and {folder.parent} has {free / 1e6:.0f} MB left: " + _MORE_STORAGE
        )


def _download(objects: S3Client, bucket: str, file: _File, folder: Path) -> None:
    partial = folder / f"{file.name}.partial"
    for _ in range(MAX_DOWNLOADS):
        found = _fetch(objects, bucket, file, partial)
        if found == file.sha256:
            partial.replace(folder / file.name)
            return
        _log.warning("s3://%s/%s: SHA-256 is %s, expected %s", bucket, file.key, found, file.sha256)
        partial.unlink()
    raise RetryableError(
        f"s3://{bucket}/{file.key} has the SHA-256 {found}, and the model that was built {file.sha256}"
    )


def _fetch(objects: S3Client, bucket: str, file: _File, partial: Path) -> str:
    """Write an object into a file, and return its SHA-256."""
    digest = hashlib.sha256()
    with partial.open("w+b") as stream:
        if not file.size:
            return digest.hexdigest()
        _reserve(stream.fileno(), file.size)
        mapped = mmap.mmap(stream.fileno(), file.size)
        whole = memoryview(mapped)
        parts = [whole[start : start + RANGE_BYTES] for start in range(0, file.size, RANGE_BYTES)]
        with ThreadPoolExecutor(MAX_CONNECTIONS) as pool:
            try:
                reads = [
                    pool.submit(objects.read_into, bucket, file.key, number * RANGE_BYTES, part, size=file.size)
                    for number, part in enumerate(parts)
                ]
                # In order, while the later ones still arrive.
                for read, part in zip(reads, parts, strict=True):
                    read.result()
                    digest.update(part)
            finally:
                pool.shutdown(cancel_futures=True)
        # Not after an error, whose traceback has views still: then the mapping goes with it.
        for view in (*parts, whole):
            view.release()
        mapped.close()
    return digest.hexdigest()


def _reserve(descriptor: int, size: int) -> None:
    """Make a file as large as it will be. Storage that ends while a mapping is written kills the process.

    Raises
    ------
    StageError
        If the storage has less left.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:  # on a Mac
            os.ftruncate(descriptor, size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StageError(
            f"a file of the model has {size / 1e6:.0f} MB, for which there is no room: {_MORE_STORAGE}"
        ) from error
