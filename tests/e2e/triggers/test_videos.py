"""Videos become a row for each of their frames, which says what the model finds in it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import av
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.e2e.triggers.parts import Parts

pytestmark = pytest.mark.e2e

SQUARE = 32
FRAMES = 9
SEEN = {"1": 0, "3": 2, "5": 4, "7": 6, "9": 8}
"""How many red squares there are in every other frame."""


def pictures() -> list[Image.Image]:
    """Return pictures of which each has one red square more than the one before."""
    found = []
    for count in range(FRAMES):
        picture = Image.new("RGB", (4 * SQUARE, 4 * SQUARE))
        for place in range(count):
            picture.paste((255, 0, 0), tuple(SQUARE * (place // step % 4 + more) for more in (0, 1) for step in (1, 4)))
        found.append(picture)
    return found


def video(container: str, codec: str, form: str) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as written:
        track: Any = written.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt = 4 * SQUARE, 4 * SQUARE, form
        for picture in pictures():
            written.mux(track.encode(av.VideoFrame.from_image(picture)))
        written.mux(track.encode())
    return stream.getvalue()


def jpegs() -> bytes:
    stream = io.BytesIO()
    for picture in pictures():
        picture.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def found(parts: Parts, key: str) -> dict[str, int]:
    """Wait for the rows of a video, and return how many squares each frame has."""
    assert parts.settle(key, len(SEEN)) == dict.fromkeys(SEEN, "SUCCEEDED")
    rows = {name: row["prediction"] for name, row in parts.of(key).items()}
    assert {one["label"] for row in rows.values() for one in row["detections"]} == {"red"}
    return {name: int(row["count"]) for name, row in rows.items()}


def test_every_other_frame_of_a_video_gets_its_own_row(films: Parts) -> None:
    videos = {
        "a.mp4": video("mp4", "libx264", "yuv420p"),
        "b.webm": video("webm", "libvpx-vp9", "yuv420p"),
        "c.gif": video("gif", "gif", "rgb8"),
    }
    for key, data in videos.items():
        films.put(key, data)
    films.put("cut off.mp4", videos["a.mp4"][:-600])
    assert {key: found(films, key) for key in videos} == dict.fromkeys(videos, SEEN)
    (letter,) = films.dead_letters_of("cut off.mp4", 1)
    assert letter["MessageAttributes"]["Error"]["StringValue"] == "CorruptObjectError"
    assert films.of("cut off.mp4") == {}


def test_every_other_jpeg_of_a_stream_gets_its_own_row(cameras: Parts) -> None:
    cameras.put("a.mjpeg", jpegs())
    assert found(cameras, "a.mjpeg") == SEEN
