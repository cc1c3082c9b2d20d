"""Tar archives, also compressed by gzip: every file in them is an item."""

from __future__ import annotations

import tarfile
import zlib
from typing import TYPE_CHECKING, Protocol

from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk, Entry, Found
from inference_runtime.splitting.source import SourceFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

    from inference_runtime.splitting.source import Source

MOST_COPIED = 512 * 1024**2
"""Bytes of a member of a compressed archive at most, which is copied if it does not fit into a message."""

_MOST_HEADER_BYTES = 1024**2
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_BLOCK = 1024**2


class _File(Protocol):
    """The part of a file that reading an archive needs."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...

    def tell(self) -> int: ...


class TarMembers:
    """Tar archives.

    Folders are skipped. Links and devices are items that are rejected. The id of an item is the name of the member.

    Parameters
    ----------
    most_inline_bytes
        Largest member that goes into a message.
    suffixes
        Endings of the names, of any case; none takes all members.
    """

    def __init__(self, *, most_inline_bytes: int, suffixes: Sequence[str] = ()) -> None:
        self._most = most_inline_bytes
        self._suffixes = tuple(suffix.lower() for suffix in suffixes)

    def splits(self, source: Source) -> bool:
        """Tell whether the archive is not compressed."""
        return not _is_compressed(source)

    def head(self, source: Source) -> None:
        """Return nothing: a member says all."""

    def scan(self, source: Source) -> Iterator[Entry]:
        """Yield the members."""
        for number, position, member in self._members(source, SourceFile(source, most=_MOST_HEADER_BYTES), Chunk()):
            yield Entry(number, member.name, member.size, position)

    def items(self, source: Source, chunk: Chunk) -> Iterator[Found]:
        """Yield the members of a chunk."""
        compressed = _is_compressed(source)
        file: _File = _InflatedFile(source) if compressed else SourceFile(source, most=_MOST_HEADER_BYTES + self._most)
        for number, _, member in self._members(source, file, chunk):
            yield self._found(source, file, number, member, compressed=compressed)

    def _members(self, source: Source, file: _File, chunk: Chunk) -> Iterator[tuple[int, int, tarfile.TarInfo]]:
        """Yield the members of a chunk that are items, with their numbers and where their headers are."""
        for number, (position, member) in enumerate(_entries(source, file, chunk), chunk.number):
            if not member.isdir() and (not self._suffixes or member.name.lower().endswith(self._suffixes)):
                yield number, position, member

    def _found(self, source: Source, file: _File, number: int, member: tarfile.TarInfo, *, compressed: bool) -> Found:
        start, end, size = member.offset_data, member.offset_data + member.size, member.size
        reason = _refusal(member, compressed=compressed)
        if reason is not None:
            return Found(number=number, id=member.name, range=source.range(0, 0, size=size, reject=reason))
        if size <= self._most:
            file.seek(start)
            data = file.read(size)
            if len(data) < size:
                raise _truncated()
            return Found(number=number, id=member.name, data=data)
        if compressed:
            return Found(number=number, id=member.name, blocks=_blocks(file, start, size))
        return Found(number=number, id=member.name, range=source.range(start, end, size=size))


def _refusal(member: tarfile.TarInfo, *, compressed: bool) -> str | None:
    if not member.isreg():
        return "member is a link, or a device"
    if member.issparse():
        return "member is a sparse file"
    if compressed and member.size > MOST_COPIED:
        return (
            f"member has {member.size:,} bytes, at most {MOST_COPIED:,} are read from a compressed archive; do not "
            "compress it"
        )
    return None


def _blocks(file: _File, start: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    left = size
    while left:
        data = file.read(min(left, _BLOCK))
        if not data:
            raise _truncated()
        left -= len(data)
        yield data


def _is_compressed(source: Source) -> bool:
    return source.read(0, len(_GZIP)) == _GZIP


def _entries(source: Source, file: _File, chunk: Chunk) -> Iterator[tuple[int, tarfile.TarInfo]]:
    """Yield all members of a chunk, and where their headers are.

    `tarfile` takes a damaged header for the end of the archive, and keeps all members. So its members are read one by
    one.
    """
    file.seek(chunk.start)
    archive = _Archive(file)
    while chunk.end is None or archive.offset < chunk.end:
        position = archive.offset
        file.seek(position)
        try:
            member = tarfile.TarInfo.fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            if position:
                return  # the blocks of zeros at the end are missing, as some programs leave it
            raise CorruptObjectError("object must be a tar archive, got an empty object") from None
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise CorruptObjectError(f"object must be a tar archive, got a damaged header: {error}") from error
        if isinstance(file, SourceFile) and member.offset_data + member.size > source.size and member.isreg():
            raise _truncated()
        if archive.offset <= position:
            raise CorruptObjectError("object must be a tar archive, got a header with a negative size")
        yield position, member


def _truncated() -> CorruptObjectError:
    return CorruptObjectError("object must be a whole tar archive, got a truncated one")


class _Archive(tarfile.TarFile):
    """An archive of which only headers are read, from where its file is."""

    def __init__(self, file: _File) -> None:
        self.fileobj: IO[bytes] = file  # type: ignore[assignment]
        self.offset = file.tell()
        self.encoding = "utf-8"
        self.errors = "surrogateescape"
        self.pax_headers = {}
        self.tarinfo = tarfile.TarInfo


class _InflatedFile:
    """The content of an object that is compressed by gzip, as a file that is read forward.

    Parameters
    ----------
    source
        The object.
    """

    def __init__(self, source: Source) -> None:
        self._blocks = source.blocks(0, source.size)
        self._inflater = zlib.decompressobj(_GZIP_WINDOW)
        self._packed = b""
        self._buffer = b""
        self._at = 0

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, /) -> int:
        """Move the position forward, and return it."""
        if offset < self._at:
            raise ValueError(f"offset must be at least {self._at}, got {offset}")
        while self._at < offset and self._skip(offset - self._at):
            pass
        return self._at

    def read(self, size: int, /) -> bytes:
        """Return so many bytes, or fewer at the end.

        Raises
        ------
        CorruptObjectError
            The bytes are more than one call may read, or the object is damaged.
        """
        if size > _MOST_HEADER_BYTES:
            raise CorruptObjectError(f"a header must be at most {_MOST_HEADER_BYTES:,} bytes, got {size:,}")
        while len(self._buffer) < size and self._fill():
            pass
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        self._at += len(data)
        return data

    def _skip(self, most: int) -> int:
        if not self._buffer:
            self._fill()
        skipped = min(most, len(self._buffer))
        self._buffer = self._buffer[skipped:]
        self._at += skipped
        return skipped

    def _fill(self) -> bool:
        """Inflate more, and tell whether there was any."""
        while True:
            if self._inflater.eof:  # another stream may follow
                self._packed = self._inflater.unused_data or next(self._blocks, b"")
                if not self._packed.startswith(_GZIP[:1]):
                    return False
                self._inflater = zlib.decompressobj(_GZIP_WINDOW)
            try:
                data = self._inflater.decompress(self._packed, _BLOCK)
            except zlib.error as error:
                raise CorruptObjectError(f"object must be a gzip file, got a damaged one: {error}") from error
            self._packed = self._inflater.unconsumed_tail
            if data:
                self._buffer += data
                return True
            if not self._inflater.eof and not self._packed:
                self._packed = next(self._blocks, b"")
                if not self._packed:
                    raise CorruptObjectError("object must be a whole gzip file, got a truncated one")
