"""Zip and tar: all members as items, whatever made the archive, and hostile ones that harm nothing else."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.splitting.stored import Stored, chunks_of, in_blocks, item_of, named, source_of

from inference_runtime.errors import RejectItem
from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk
from inference_runtime.splitting.source import PAGE, Source
from inference_runtime.splitting.tar_members import TarMembers
from inference_runtime.splitting.zip_members import ZipMembers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference_runtime.splitting.formats import Format

MEMBERS = [("a.txt", b"one"), ("ordner/ä.bin", bytes(range(256)) * 20), ("", b""), ("b/", b""), ("a.txt", b"two")]
NAMED = [("K#a.txt", b"one"), ("K#ordner/ä.bin", bytes(range(256)) * 20), ("K##5", b"two")]
ZIP, TAR = ZipMembers(most_inline_bytes=1000), TarMembers(most_inline_bytes=1000)


def zipped(members: Sequence[tuple[str, bytes]] = MEMBERS, method: int = zipfile.ZIP_DEFLATED, **more: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, **more) as archive:
        for name, data in members:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a name that is there already
                archive.writestr(name or "empty/", data)
    return file.getvalue()


def tarred(members: Sequence[tuple[str, bytes]] = MEMBERS, form: int = tarfile.PAX_FORMAT, mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name.rstrip("/") or "empty")
            info.size = len(data)
            info.type = tarfile.REGTYPE if name and not name.endswith("/") else tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def outcomes(form: Format, data: bytes) -> dict[str, str]:
    """Return what becomes of each item: its bytes as text, or why it is rejected."""
    found = {}
    for one in form.items(source_of(data), Chunk()):
        try:
            if one.range is not None:
                one.range.check()
                found[str(one.id)] = one.range.content(data[one.range.start : one.range.end]).decode()
            else:
                found[str(one.id)] = (one.data if one.data is not None else b"".join(one.blocks or ())).decode()
        except RejectItem as error:
            found[str(one.id)] = str(error)
    return found


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("before", [b"", b"#!/bin/sh\n"])
def test_members_of_a_zip_are_items(method: int, before: bytes) -> None:
    data = before + zipped(method=method)
    assert named(ZIP, data) == NAMED
    for chunk_bytes in (1, 150, 5000):
        assert named(ZIP, data, chunks_of(ZIP, data, chunk_bytes)) == NAMED
    assert named(ZipMembers(most_inline_bytes=10**6, suffixes=[".BIN"]), data) == [NAMED[1]]


def test_a_zip_that_was_streamed_or_is_of_the_large_kind_is_read() -> None:
    class Pipe(io.RawIOBase):
        """It cannot be sought, so sizes come after the data."""

        def __init__(self) -> None:
            super().__init__()
            self.written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.written += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a", "w", force_zip64=True) as file:
            file.write(b"content")
        archive.comment = b"PK\5\6 is in the comment"
    assert named(ZIP, pipe.written) == [("K#a", b"content")]
    # The directory has sizes of 64 bits, which Python writes for large members only.
    plain = zipped([("a", b"content")], zipfile.ZIP_STORED)
    start = plain.index(b"PK\1\2")
    entry = bytearray(plain[start : start + 46])
    struct.pack_into("<2L", entry, 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", entry, 30, 20)
    struct.pack_into("<L", entry, 42, 2**32 - 1)
    directory = bytes(entry) + b"a" + struct.pack("<2H3Q", 1, 24, 7, 7, 0)
    struct.pack_into("<H", entry, 30, 28)
    directory = bytes(entry) + directory[46:]
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(directory), start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(directory), 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    large = plain[:start] + directory + record + locator + last
    assert zipfile.ZipFile(io.BytesIO(large)).read("a") == b"content"
    assert named(ZIP, large) == [("K#a", b"content")]


def test_one_bad_member_of_a_zip_spares_the_others() -> None:
    method, flags, sizes, crc = 10, 8, 20, 16  # where they are in an entry of the directory
    names = ["good", "locked", "bz2", "crc", "bomb", "huge", "gone", "none", "end"]
    data = bytearray(zipped([(name, name.encode() * 3) for name in names]))
    at = {name: data.rindex(name.encode()) - 46 for name in names}
    data[at["locked"] + flags] |= 1
    data[at["bz2"] + method] = 12
    data[at["crc"] + crc] ^= 1
    struct.pack_into("<L", data, at["bomb"] + sizes + 4, 5)
    struct.pack_into("<L", data, at["huge"] + sizes, 10**6)
    struct.pack_into("<L", data, at["gone"] + 42, 3)
    data[at["none"] + method] = 8
    struct.pack_into("<2L", data, at["none"] + sizes, 0, 10**6)
    assert outcomes(ZIP, bytes(data)) == {
        "good": "goodgoodgood",
        "locked": "member is encrypted",
        "bz2": "member is compressed by method 12, expected deflate",
        "crc": "content does not match its checksum",
        "bomb": "content inflates to more bytes, expected 5",
        "huge": "member has another size than the directory says",
        "gone": "member has no header where the directory says so",
        "none": "object has no bytes of the item, expected 1,000,000 once inflated",
        "end": "endendend",
    }


def test_a_zip_bomb_is_not_inflated_beyond_what_it_says() -> None:
    [found] = ZIP.items(source_of(zipped([("bomb", bytes(50_000_000))])), Chunk())
    assert found.data is None
    assert found.range is not None
    assert (found.range.size, found.range.end - found.range.start < 60_000) == (50_000_000, True)


def test_links_of_a_zip_are_rejected_and_names_are_only_names() -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../../etc/passwd", "x")
        archive.writestr("/etc/shadow", "y")
    assert outcomes(ZIP, file.getvalue()) == {
        "link": "member is a link",
        "../../etc/passwd": "x",
        "/etc/shadow": "y",
    }


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("long", [False, True])
def test_members_of_a_tar_are_items(form: int, long: bool) -> None:
    folder = "" if form == tarfile.USTAR_FORMAT else "ordner/" * 40
    members = [(f"{folder}{name}" if long and name not in {"", "b/"} else name, data) for name, data in MEMBERS]
    expected = [
        (name.replace("#", f"#{folder}", 1) if long and "##" not in name else name, data) for name, data in NAMED
    ]
    data = tarred(members, form)
    assert named(TAR, data) == expected
    for chunk_bytes in (1, 4000, 9000):
        assert named(TAR, data, chunks_of(TAR, data, chunk_bytes)) == expected
    assert chunks_of(TAR, data, 1) != [Chunk()]
    compressed = gzip.compress(data[:3000]) + gzip.compress(data[3000:])  # of two parts
    for block in (1, 7, 10**6):
        with in_blocks(block):
            assert named(TAR, compressed) == expected
    assert chunks_of(TAR, compressed, 1) == [Chunk()]
    assert named(TarMembers(most_inline_bytes=10, suffixes=[".TXT"]), data) == [
        one for one in expected if "bin" not in one[0]
    ]


def test_members_that_are_no_files_are_rejected() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (("sym", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("dev", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a"
            archive.addfile(info)
        info = tarfile.TarInfo("../a")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    reason = "member is a link, or a device"
    assert outcomes(TAR, file.getvalue()) == {"sym": reason, "hard": reason, "dev": reason, "../a": "x"}


def test_a_large_member_of_a_compressed_tar_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference_runtime.splitting.tar_members.MOST_COPIED", 2000)
    members = [("large", bytes(2001)), ("copied", b"x" * 2000), ("small", b"y")]
    assert outcomes(TAR, tarred(members, mode="w:gz")) == {
        "large": "member has 2,001 bytes, at most 2,000 are read from a compressed archive; do not compress it",
        "copied": "x" * 2000,
        "small": "y",
    }
    assert outcomes(TAR, tarred(members))["large"] == "\0" * 2001


def gnu_long_name(size: int) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf(tarfile.GNU_FORMAT)


_TAR = tarred([("a", b"x" * 2000), ("b", b"y" * 2000)])
_ZIP = zipped()


@pytest.mark.parametrize(
    ("form", "data", "text"),
    [
        (ZIP, b"", "must be a zip archive, got none"),
        (ZIP, b"plain text" * 100, "must be a zip archive, got none"),
        (ZIP, _ZIP[:-1], "must be a zip archive, got none, or a truncated one"),
        (ZIP, _ZIP[40:], "must be a whole zip archive"),
        (ZIP, _ZIP.replace(b"PK\1\2", b"PK\1\3"), "must have entries"),
        (TAR, b"", "got an empty object"),
        (TAR, b"plain text" * 100, "damaged header"),
        (TAR, b"PK", "damaged header"),
        (TAR, _TAR[:3600], "truncated"),
        (TAR, _TAR[:2900], "damaged header"),
        (TAR, _TAR[:2560] + b"\1" * 512 + _TAR[3072:], "damaged header"),
        (TAR, gnu_long_name(2**33) + bytes(2048), "damaged header|at most"),
        (TAR, gnu_long_name(2 * 1024**2) + bytes(3 * 1024**2), "a header must be at most"),
        (TAR, gzip.compress(gnu_long_name(2**33) + bytes(5 * 1024**2)), "a header must be at most"),
        (TAR, gzip.compress(_TAR)[:-20], "truncated|damaged"),
        (TAR, gzip.compress(_TAR[:3600]), "truncated"),
        (TAR, gzip.compress(_TAR)[:20] + b"\0" * 200, "damaged|truncated"),
        (TAR, b"\x1f\x8b" + b"no gzip" * 9, "must be a gzip file, got a damaged one"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_an_object_that_is_not_what_it_claims_fails(form: Format, data: bytes, text: str) -> None:
    with pytest.raises(CorruptObjectError, match=text):
        outcomes(form, data)


@settings(max_examples=150)
@given(data=st.data())
def test_damage_fails_only_in_the_ways_that_are_known(data: st.DataObject) -> None:
    form, whole = data.draw(st.sampled_from([(ZIP, _ZIP), (TAR, _TAR), (TAR, gzip.compress(_TAR, mtime=0))]))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(CorruptObjectError):
        outcomes_of = [
            found for found in form.items(source_of(bytes(damaged)), Chunk()) if sum(map(len, found.blocks or ())) >= 0
        ]
        assert len(outcomes_of) < 10
    with suppress(CorruptObjectError):
        chunks_of(form, bytes(damaged), 1)


def test_the_checksum_travels_with_a_large_member() -> None:
    [found] = ZIP.items(source_of(zipped([("a", b"z" * 5000)])), Chunk())
    assert found.range is not None
    assert found.range.crc32 == zlib.crc32(b"z" * 5000)


@pytest.mark.parametrize(("form", "make", "more"), [(ZIP, zipped, 3), (TAR, tarred, 2)], ids=["zip", "tar"])
def test_small_members_are_read_many_at_a_time(form: Format, make: Callable[..., bytes], more: int) -> None:
    data = make([(f"{number}.txt", bytes(500)) for number in range(2000)])
    stored: Any = Stored(data)
    found = list(form.items(Source(stored, item_of(len(data))), Chunk()))
    assert len(found) == 2000
    assert len(stored.ranges) <= len(data) // PAGE + more
    assert sum(end - start for start, end in stored.ranges) < 2.2 * len(data)
