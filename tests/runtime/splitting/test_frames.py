"""Motion JPEG: the same frames whatever the chunks and blocks are, from streams, AVI files and multipart messages."""

from __future__ import annotations

import functools
import io
import itertools
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from tests.runtime.splitting.stored import chunks_of, in_blocks, named, source_of

from inference_runtime.errors import RejectItem
from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk
from inference_runtime.splitting.jpeg_frames import JpegFrames
from inference_runtime.stages.builtin.image import image_preprocessor


@functools.cache
def picture(number: int, *, progressive: bool = False) -> bytes:
    """Return a JPEG of this brightness, with a thumbnail in its metadata as cameras store one, and restart markers."""
    thumbnail, stream = io.BytesIO(), io.BytesIO()
    Image.new("L", (8, 8), 90).save(thumbnail, "JPEG")
    noise = Image.frombytes("L", (40, 24), bytes(20 * number + 7919 * place % 41 for place in range(40 * 24)))
    exif = b"Exif\0\0" + thumbnail.getvalue()
    noise.save(stream, "JPEG", exif=exif, progressive=progressive, restart_marker_blocks=1)
    return stream.getvalue()


def raw(pictures: list[bytes]) -> bytes:
    return b"".join(pictures)


def multipart(pictures: list[bytes]) -> bytes:
    return b"".join(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + each + b"\r\n" for each in pictures) + b"--frame--"


def avi(pictures: list[bytes]) -> bytes:
    """Return a RIFF file with a chunk for each picture, padded to even bytes, and an index."""
    chunks = b"".join(b"00dc" + struct.pack("<I", len(each)) + each + b"\0" * (len(each) % 2) for each in pictures)
    index = b"idx1" + struct.pack("<I", 16 * len(pictures)) + b"\xff\xd8" * 8 * len(pictures)
    content = b"AVI LIST" + struct.pack("<I", len(chunks) + 4) + b"movi" + chunks + index
    return b"RIFF" + struct.pack("<I", len(content)) + content


@given(
    numbers=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    wrap=st.sampled_from([raw, multipart, avi]),
    every=st.integers(1, 3),
    progressive=st.booleans(),
    block=st.integers(1, 900),
    chunk=st.integers(1, 3000),
)
def test_frames_are_the_same_in_any_chunks(
    numbers: list[int], wrap: object, every: int, progressive: bool, block: int, chunk: int
) -> None:
    pictures = [picture(number, progressive=progressive) for number in numbers]
    data = wrap(pictures)
    expected = [(f"K#{place}", each) for place, each in enumerate(pictures, 1) if (place - 1) % every == 0]
    form = JpegFrames(every)
    with in_blocks(block):
        assert named(form, data) == expected
        assert named(form, data, chunks_of(form, data, chunk, 2)) == expected


def test_a_frame_is_a_picture() -> None:
    read = image_preprocessor(size=8, resize="stretch")
    frames = [content for _, content in named(JpegFrames(), avi([picture(2), picture(8)]))]
    dark, bright = (read(content, None).mean() for content in frames)
    assert dark + 60 < bright


def test_a_frame_that_is_cut_off_is_rejected_and_a_damaged_one_does_not_count() -> None:
    first, second = picture(1), picture(2)
    cut = first + second[: len(second) // 2]
    whole, rest = JpegFrames().items(source_of(cut), Chunk())
    assert (whole.number, rest.number) == (1, 2)
    with pytest.raises(RejectItem, match="frame is cut off at the end of the object"):
        rest.range.check()  # type: ignore[union-attr]
    damaged = first[:-100] + second + first  # it ends within the picture: a cut header would take the next one along
    form = JpegFrames()
    assert [content for _, content in named(form, damaged)] == [second, first]
    for size in (100, 1500, 3000):
        chunks = chunks_of(form, damaged, size, 1)
        assert [content for _, content in named(form, damaged, chunks)] == [second, first]


@pytest.mark.parametrize("data", [b"RIFF\0\0\0\0AVI ", b"\xff\xd8", b"\0" * 5000, b"\xff\xd8\xff\xd8"])
def test_an_object_without_frames_fails(data: bytes) -> None:
    with pytest.raises(CorruptObjectError, match="must be Motion JPEG, got no JPEG in it"):
        list(JpegFrames().items(source_of(data), Chunk()))


pieces = st.sampled_from(
    [b"\xff", b"\xd8", b"\xd9", b"\xda", b"\0", b"\1", b"\2", b"\xe0", b"\xd0", b"\xff\xd8\xff\xda\0\2a\xff\xd9"]
)


@given(st.lists(pieces, max_size=40).map(b"".join), st.integers(1, 9), st.integers(1, 60))
@example(b"\xff\xd8\xff\xda\0\2a\xff", 1, 1)
def test_any_bytes_give_the_same_frames_in_any_blocks_and_chunks(data: bytes, block: int, chunk: int) -> None:
    form = JpegFrames()

    def found(chunks: list[Chunk]) -> list[tuple[int, int, int]]:
        ranges = [(one.number, one.range) for each in chunks for one in form.items(source_of(data), each)]
        return [(number, part.start, part.end) for number, part in ranges if part is not None]

    try:
        whole = found([Chunk()])
    except CorruptObjectError:
        return
    assert all(data[start:].startswith(b"\xff\xd8\xff") and start < end <= len(data) for _, start, end in whole)
    assert all(one[2] <= two[1] for one, two in itertools.pairwise(whole))
    with in_blocks(block):
        assert found([Chunk()]) == whole
        assert found(chunks_of(form, data, chunk, 2)) == whole
