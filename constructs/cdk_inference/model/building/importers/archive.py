"""Checks what files claim to be, and what zip archives hold, before a framework opens them."""

from __future__ import annotations

import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from pathlib import Path

MAX_REASON = 300  # characters

_HEADER = 8  # bytes with the length of a safetensors file's JSON


def describe_file(path: Path) -> str:
    """Tell what a file is by its first bytes: ``"safetensors"``, ``"zip"``, ``"pickle"``, or words for a message."""
    with path.open("rb") as file:
        start = file.read(64)
    lower = start.lstrip().lower()
    length = int.from_bytes(start[:_HEADER], "little")
    signs = {
        "an empty file": not start,
        "a git-lfs pointer; fetch the file with git lfs pull": start.startswith(b"version https://git-lfs"),
        "an HTML page; download the file itself": lower.startswith((b"<!doctype", b"<html", b"<?xml")),
        "zip": start.startswith((b"PK\3\4", b"PK\5\6")),
        "pickle": start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"),
        "safetensors": start[_HEADER : _HEADER + 1] == b"{" and length < path.stat().st_size,
        "a file compressed with gzip; unpack it": start.startswith(b"\x1f\x8b"),
    }
    return next((kind for kind, found in signs.items() if found), "a file of an unknown format")


def check_archive(path: Path) -> list[str]:
    """Return the names in an archive of torch, which stores its records uncompressed.

    Raises
    ------
    ModelBuildError
        It is damaged, is compressed, or claims to hold more than it has bytes, as a zip bomb does. Its names lead out
        of it, or occur twice, so that another reader may see another archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise ModelBuildError(f"{path.name} cannot be read as an archive: {error}; save or copy it again") from error
    names = [record.filename for record in records]
    if any(name.endswith("/constants.pkl") for name in names):
        raise ModelBuildError(
            f"{path.name} must not be a TorchScript archive; save the state_dict() of the module instead"
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ModelBuildError(f"{path.name} must not be compressed, since torch.save does not do so; save it again")
    claimed, size = sum(record.file_size for record in records), path.stat().st_size
    if claimed > size:
        raise ModelBuildError(
            f"{path.name} cannot hold {claimed} bytes, as its records claim, in {size} bytes; save it again"
        )
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
            raise ModelBuildError(f"{path.name} must not have records that lead out of it, got '{name}'; save it again")
    if len({name.split("/")[0] for name in names}) != 1:
        raise ModelBuildError(
            f"{path.name} must be an archive of this version of torch; save it again with torch 2.9 or later"
        )
    if len(set(names)) != len(names):
        raise ModelBuildError(f"{path.name} must not have two records of the same name; save it again")
    return names


def shorten(error: BaseException | str) -> str:
    """Return the first line of an error's message, bounded."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."
