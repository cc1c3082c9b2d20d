"""Layers of an image: compressed archives whose bytes depend on nothing but their files."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from cdk_inference.common.contents import mode_of

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

_FOLDER_MODE = 0o755
_LEVEL = 5  # as in our zips


@dataclass(frozen=True)
class Layer:
    """A layer, in a file.

    Attributes
    ----------
    path
        The compressed archive.
    digest
        SHA-256 of its bytes, such as ``sha256:…``.
    diff_id
        That of the archive before it was compressed.
    """

    path: Path
    digest: str
    diff_id: str


class _Hashing(io.RawIOBase):
    """A stream that hashes what it passes on.

    Parameters
    ----------
    target
        Takes the bytes.
    """

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._hash = sha256()

    @property
    def digest(self) -> str:
        """The digest of everything so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def writable(self) -> bool:
        """Tell that this stream takes bytes."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override] # archives write bytes
        """Pass bytes on."""
        self._hash.update(data)
        self._target.write(data)
        return len(data)


def write_layer(target: Path, files: Mapping[str, Path | bytes]) -> Layer:
    """Write files as a layer: owned by root, dated 1970-01-01, in the order of their names.

    Parameters
    ----------
    target
        The file to write.
    files
        Files, or their bytes, by their path in the image, without a slash in front.
    """
    with target.open("wb") as stream:
        compressed = _Hashing(stream)
        # The file name is empty, since it would be part of the bytes.
        with gzip.GzipFile("", "wb", _LEVEL, cast("IO[bytes]", compressed), mtime=0) as packed:
            plain = _Hashing(cast("IO[bytes]", packed))
            with tarfile.open(fileobj=cast("IO[bytes]", plain), mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for folder in sorted(_folders(files)):
                    entry = tarfile.TarInfo(folder)
                    entry.type, entry.mode = tarfile.DIRTYPE, _FOLDER_MODE
                    archive.addfile(entry)
                for name, content in sorted(files.items(), key=itemgetter(0)):
                    _add(archive, name, content)
    return Layer(target, compressed.digest, plain.digest)


def _add(archive: tarfile.TarFile, name: str, content: Path | bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = mode_of(content)
    if isinstance(content, bytes):
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
        return
    entry.size = content.stat().st_size
    with content.open("rb") as stream:
        archive.addfile(entry, stream)


def _folders(files: Mapping[str, Path | bytes]) -> set[str]:
    parents = {parent for name in files for parent in PurePosixPath(name).parents}
    return {parent.as_posix() for parent in parents} - {"."}
