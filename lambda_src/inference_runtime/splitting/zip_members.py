"""Zip archives: every file in them is an item.

`zipfile` would keep the whole directory in memory, so it is read here, entry by entry. The format is described in
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from inference_runtime.errors import RejectItem
from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk, Entry, Found
from inference_runtime.splitting.source import SourceFile
from inference_runtime.stages.byte_range import DEFLATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inference_runtime.splitting.source import Source
    from inference_runtime.stages.byte_range import ByteRange

_LOCAL = struct.Struct("<4s22x2H")
_CENTRAL = struct.Struct("<4s4x2H4x3L3H4x2L")
_END = struct.Struct("<4s6xH2LH")
_END64 = struct.Struct("<4s28x3Q")
_LOCATOR = struct.Struct("<4s4xQ4x")
_LONGEST_COMMENT = 65_535
_MANY, _MANY_ENTRIES = 0xFFFFFFFF, 0xFFFF
_ENCRYPTED, _UTF8 = 0x41, 0x800
_STORED, _DEFLATED = 0, 8
_EXTRA64 = 1
_KIND, _LINK = 0o170000, 0o120000


class _Directory(NamedTuple):
    """Where the directory of an archive starts and ends, and what is before the archive."""

    start: int
    end: int
    before: int


class _Member(NamedTuple):
    """A member, as the directory describes it; `end` is where its description ends."""

    position: int
    end: int
    name: str
    flags: int
    method: int
    crc32: int
    packed: int
    size: int
    offset: int
    mode: int


class ZipMembers:
    """Zip archives, whose members are stored or deflated.

    Folders are skipped. Members that are encrypted, damaged or links are items that are rejected. The id of an item is
    the name of the member.

    Parameters
    ----------
    most_inline_bytes
        Largest member that is read; others are left to the preprocessing.
    suffixes
        Endings of the names, of any case; none takes all members.
    """

    def __init__(self, *, most_inline_bytes: int, suffixes: Sequence[str] = ()) -> None:
        self._most = most_inline_bytes
        self._suffixes = tuple(suffix.lower() for suffix in suffixes)

    def splits(self, source: Source) -> bool:  # noqa: ARG002 - of the protocol
        """Return True."""
        return True

    def head(self, source: Source) -> str:
        """Return where the directory is."""
        return " ".join(map(str, _directory(source)))

    def scan(self, source: Source) -> Iterator[Entry]:
        """Yield the members."""
        directory = _directory(source)
        for number, member in self._members(source, directory, Chunk(directory.start)):
            yield Entry(number, member.name, _CENTRAL.size + member.packed, member.position)

    def items(self, source: Source, chunk: Chunk) -> Iterator[Found]:
        """Yield the members of a chunk; it starts and ends in the directory."""
        directory = _directory(source) if chunk.head is None else _Directory(*map(int, chunk.head.split()))
        if chunk.head is None:
            chunk = Chunk(directory.start)
        file = SourceFile(source, most=self._most + _CENTRAL.size)
        for number, member in self._members(source, directory, chunk):
            part = _range(source, file, directory, member)
            yield self._found(source, file, number, member, part)

    def _members(self, source: Source, directory: _Directory, chunk: Chunk) -> Iterator[tuple[int, _Member]]:
        """Yield the members of a chunk that are items, with their numbers."""
        end = directory.end if chunk.end is None else chunk.end
        for number, member in enumerate(_entries(source, chunk.start, end), chunk.number):
            if not member.name.endswith("/") and (not self._suffixes or member.name.lower().endswith(self._suffixes)):
                yield number, member

    def _found(self, source: Source, file: SourceFile, number: int, member: _Member, part: ByteRange) -> Found:
        if part.reject is None and part.most_bytes <= self._most:
            file.seek(part.start)
            try:
                data = part.content(file.read(part.end - part.start)) if part.size else b""
            except RejectItem as error:
                part = _rejected(source, member, str(error))
            else:
                return Found(number=number, id=member.name, data=data)
        return Found(number=number, id=member.name, range=part)


def _range(source: Source, file: SourceFile, directory: _Directory, member: _Member) -> ByteRange:
    """Return where a member's bytes are, which is after the member's header."""
    if member.flags & _ENCRYPTED:
        return _rejected(source, member, "member is encrypted")
    if member.mode & _KIND == _LINK:
        return _rejected(source, member, "member is a link")
    if member.method not in {_STORED, _DEFLATED}:
        return _rejected(source, member, f"member is compressed by method {member.method}, expected deflate")
    file.seek(directory.before + member.offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        return _rejected(source, member, "member has no header where the directory says so")
    _, name, extra = _LOCAL.unpack(header)
    start = directory.before + member.offset + _LOCAL.size + name + extra
    end = start + member.packed
    if end > directory.start or (member.method == _STORED and member.packed != member.size):
        return _rejected(source, member, "member has another size than the directory says")
    compression = DEFLATE if member.method == _DEFLATED else None
    return source.range(start, end, size=member.size, compression=compression, crc32=member.crc32)


def _rejected(source: Source, member: _Member, reason: str) -> ByteRange:
    return source.range(0, 0, size=member.size, reject=reason)


def _directory(source: Source) -> _Directory:
    """Find the directory, by the record at the end of the archive."""
    tail_start = max(0, source.size - _LONGEST_COMMENT - _END.size)
    tail = source.read(tail_start, source.size)
    at = len(tail)
    while (at := tail.rfind(b"PK\5\6", 0, at)) >= 0:
        if len(tail) - at < _END.size:
            continue
        _, entries, size, offset, comment = _END.unpack_from(tail, at)
        if at + _END.size + comment == len(tail):
            break
    else:
        raise CorruptObjectError("object must be a zip archive, got none, or a truncated one")
    end = tail_start + at
    if _MANY in {size, offset} or entries == _MANY_ENTRIES:
        locator = source.read(max(0, end - _LOCATOR.size), end)
        if len(locator) == _LOCATOR.size and locator.startswith(b"PK\6\7"):
            end = end - _LOCATOR.size - _END64.size
            record = source.read(max(0, end), end + _END64.size)
            if len(record) < _END64.size or not record.startswith(b"PK\6\6"):
                raise CorruptObjectError("object must be a zip archive, got a damaged one")
            _, _, size, offset = _END64.unpack(record)
    before = end - size - offset
    if before < 0:
        raise CorruptObjectError("object must be a whole zip archive, got a truncated one")
    return _Directory(end - size, end, before)


def _entries(source: Source, start: int, end: int) -> Iterator[_Member]:
    """Yield the members of a part of the directory."""
    buffer, position = b"", start
    for block in source.blocks(start, end):
        buffer += block
        at = 0
        while (found := _member(buffer, at, position)) is not None:
            at += found.end - found.position
            position = found.end
            yield found
        buffer = buffer[at:]
    if buffer:
        raise CorruptObjectError("the directory of the zip archive must have whole entries, got a part of one")


def _member(buffer: bytes, at: int, position: int) -> _Member | None:
    """Return the member that is described at a place of the directory; None if its description is not all there."""
    if len(buffer) - at < _CENTRAL.size:
        return None
    signature, flags, method, crc, packed, size, name, extra, comment, attributes, offset = _CENTRAL.unpack_from(
        buffer, at
    )
    if signature != b"PK\1\2":
        raise CorruptObjectError("the directory of the zip archive must have entries, got something else")
    length = _CENTRAL.size + name + extra + comment
    if len(buffer) - at < length:
        return None
    name_end = at + _CENTRAL.size + name
    if _MANY in {size, packed, offset}:
        size, packed, offset = _large(buffer[name_end : name_end + extra], (size, packed, offset))
    text = _name(buffer[at + _CENTRAL.size : name_end], flags)
    return _Member(position, position + length, text, flags, method, crc, packed, size, offset, attributes >> 16)


def _large(extra: bytes, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return sizes of 32 bits, with those of 64 bits in the place of what does not fit."""
    at = 0
    while len(extra) - at >= 4:  # noqa: PLR2004 - bytes of a kind and a length
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == _EXTRA64:
            length = min(length, len(extra) - at - 4)
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            try:
                size, packed, offset = (next(wide) if number == _MANY else number for number in sizes)
            except RuntimeError as error:
                raise CorruptObjectError("the directory of the zip archive must have all sizes") from error
            return size, packed, offset
        at += 4 + length
    return sizes


def _name(data: bytes, flags: int) -> str:
    if flags & _UTF8:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return data.decode("cp437")
