"""Where built things are kept between synths, and the hashes that name them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Iterator


def cache_root() -> Path:
    """Return the cache folder: ``$CDK_INFERENCE_CACHE``, or the user's cache folder of the operating system."""
    chosen = os.environ.get("CDK_INFERENCE_CACHE")
    return Path(chosen).absolute() if chosen else Path(platformdirs.user_cache_dir("cdk-inference"))


def folder_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative POSIX name, path) of the files that count, sorted; bytecode and hidden files do not."""
    for name in sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()):
        parts = name.split("/")
        if not any(part.startswith(".") or part == "__pycache__" for part in parts):
            yield name, folder / name


def hash_folder(folder: Path) -> str:
    """Return the SHA-256 over names and bytes of a folder's files; where it lies, modes and times do not matter."""
    digest = hashlib.sha256()
    for name, path in folder_files(folder):
        digest.update(f"{name}\0{hash_file(path)}\0".encode())
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
