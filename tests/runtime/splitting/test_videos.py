"""Videos: the right frames of each format and codec, wherever a call goes on, and nothing of what is too much."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any

import av
import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageStat
from tests.runtime.splitting.stored import Stored, chunks_of, item_of, source_of

from inference_runtime.errors import RetryableError
from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk, Found, Restart
from inference_runtime.splitting.source import Source
from inference_runtime.splitting.video_frames import VideoFrames

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = (64, 48)
STEP = 8  # of the brightness, from frame to frame
COUNT = 30
FORM = VideoFrames(every=1, max_seconds=10, max_pixels=64 * 48)
CODECS = {
    "h264": ("mp4", "libx264", {"g": "7", "x264-params": "open-gop=1"}),
    "h264 in fragments": ("mp4", "libx264", {"g": "7"}),
    "h264 in Matroska": ("matroska", "libx264", {"g": "7", "x264-params": "open-gop=1"}),
    "h264 of key frames": ("mp4", "libx264", {"g": "1"}),
    "hevc": ("mp4", "libx265", {"x265-params": "keyint=8:open-gop=1:log-level=none"}),
    "mpeg4": ("mp4", "mpeg4", {"g": "6", "b": "8000000", "qmax": "2"}),
    "vp8": ("webm", "libvpx", {"g": "10", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9": ("webm", "libvpx-vp9", {"g": "10"}),
    "gif": ("gif", "gif", {}),
}
ONE, MINUS, ZERO = "00010000", "ffff0000", "00000000"


def matrix(*values: str) -> bytes:
    """Return the matrix by which an MP4 turns its frames, of its upper left values."""
    a, b, c, d = values
    return bytes.fromhex(a + b + ZERO + c + d + ZERO * 3 + "40000000")


def turned(data: bytes, *values: str) -> bytes:
    """Return an MP4 whose frames are shown turned."""
    upright = matrix(ONE, ZERO, ZERO, ONE)
    at = data.index(upright, data.index(b"tkhd"))
    return data[:at] + matrix(*values) + data[at + len(upright) :]


def encoded(
    pictures: Sequence[Image.Image],
    container: str = "mp4",
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    *,
    form: str = "yuv420p",
    times: Sequence[int] | None = None,
    muxing: dict[str, str] | None = None,
) -> bytes:
    """Return a video of 25 frames a second, or with frames at other times."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container, options=muxing or {}) as written:
        track: Any = written.add_stream(codec, rate=25, options=dict(options or {}))
        (track.width, track.height), track.pix_fmt, track.codec_context.thread_count = pictures[0].size, form, 1
        for time, picture in zip(times or range(len(pictures)), pictures, strict=True):
            frame = av.VideoFrame.from_image(picture)
            frame.pts = time
            written.mux(track.encode(frame))
        written.mux(track.encode())
    return stream.getvalue()


def grays(count: int = COUNT, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    return [Image.new("RGB", size, (number * STEP % 256,) * 3) for number in range(count)]


@functools.cache
def video(name: str) -> bytes:
    container, codec, options = CODECS[name]
    muxing = {"movflags": "frag_keyframe+empty_moov"} if "fragments" in name else None
    return encoded(grays(), container, codec, options, form="rgb8" if name == "gif" else "yuv420p", muxing=muxing)


def seen(form: VideoFrames, data: bytes, chunk: Chunk = Chunk()) -> list[Found | Restart]:  # noqa: B008 - immutable
    return list(form.items(source_of(data), chunk))


def picture(found: Found | Restart) -> Image.Image:
    assert isinstance(found, Found)
    assert found.data is not None
    opened = Image.open(io.BytesIO(found.data))
    assert (opened.format, opened.mode) == ("JPEG", "RGB")
    return opened


def shown(found: Sequence[Found | Restart]) -> list[tuple[int, int]]:
    """Return the numbers of the frames, and which of the gray pictures each shows."""
    means = {one.number: ImageStat.Stat(picture(one)).mean[0] for one in found if isinstance(one, Found)}
    return [(number, round(mean / STEP) + 1) for number, mean in means.items()]


@pytest.mark.parametrize("name", CODECS)
def test_frames_have_their_numbers_wherever_a_call_goes_on(name: str) -> None:
    data = video(name)
    found = seen(FORM, data)
    assert shown(found) == [(number, number) for number in range(1, COUNT + 1)]
    every = VideoFrames(every=4, max_seconds=10, max_pixels=64 * 48)
    assert shown(seen(every, data)) == [(number, number) for number in range(1, COUNT + 1, 4)]
    places = [(at, one) for at, one in enumerate(found) if isinstance(one, Restart)]
    assert places or name in {"gif", "vp8"}
    for at, place in places:
        rest = seen(FORM, data, place.chunk)
        assert rest == found[at + 1 :]
    assert chunks_of(FORM, data, 100) == [Chunk()]


@pytest.mark.parametrize(
    ("values", "corner"),
    [
        ((ONE, ZERO, ZERO, ONE), (0, 0)),
        ((ZERO, ONE, MINUS, ZERO), (1, 0)),
        ((MINUS, ZERO, ZERO, MINUS), (1, 1)),
        ((ZERO, MINUS, ONE, ZERO), (0, 1)),
        ((MINUS, ZERO, ZERO, ONE), (1, 0)),
        ((ONE, ZERO, ZERO, MINUS), (0, 1)),
        ((ZERO, ONE, ONE, ZERO), (0, 0)),
        ((ZERO, MINUS, MINUS, ZERO), (1, 1)),
    ],
)
def test_frames_at_any_times_stand_as_they_are_shown(values: tuple[str, ...], corner: tuple[int, int]) -> None:
    marked = Image.new("RGB", SIZE, "black")
    marked.paste("white", (0, 0, 32, 24))
    data = turned(encoded([marked] * 3, times=[0, 40, 41]), *values)
    first, second, last = (one for one in seen(FORM, data) if isinstance(one, Found))
    assert [first.number, second.number, last.number] == [1, 2, 3]
    shown_frame = picture(last)
    width, height = shown_frame.size
    assert (width, height) == (SIZE if values[0] != ZERO else SIZE[::-1])
    places = [(x, y) for x in (0, 1) for y in (0, 1)]
    lit = {
        (x, y): shown_frame.getpixel((width // 4 + x * width // 2, height // 4 + y * height // 2)) for x, y in places
    }
    assert [place for place, value in lit.items() if value[0] > 128] == [corner]  # type: ignore[index]


def test_transparency_is_laid_on_white() -> None:
    clear, stream = Image.new("P", SIZE, 0), io.BytesIO()
    clear.putpalette([255, 0, 0, 0, 0, 255])
    clear.paste(1, (0, 0, 32, 48))
    clear.save(stream, "GIF", transparency=0, save_all=True, append_images=[clear.rotate(180)], disposal=2)
    first, second = map(picture, seen(FORM, stream.getvalue()))
    assert [one.getpixel((x, 24))[1] > 200 for one in (first, second) for x in (8, 56)] == [False, True, True, False]  # type: ignore[index]


@pytest.mark.parametrize(("height", "space"), [(480, "ITU601"), (720, "ITU709")])
def test_colours_that_a_file_does_not_name_are_those_of_its_height(height: int, space: str) -> None:
    green = av.VideoFrame.from_image(Image.new("RGB", (64, height), (0, 200, 0)))
    plain = green.reformat(format="yuv420p", dst_colorspace=space)
    planes = [bytes([bytes(plane)[0]]) * plane.line_size * plane.height for plane in plain.planes]
    frame = av.VideoFrame(64, height, "yuv420p")
    for plane, content in zip(frame.planes, planes, strict=True):
        plane.update(content)
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as written:
        track: Any = written.add_stream("libx264", rate=25, options={"crf": "1"})
        track.width, track.height, track.pix_fmt = 64, height, "yuv420p"
        written.mux(track.encode(frame))
        written.mux(track.encode())
    form = VideoFrames(every=1, max_seconds=10, max_pixels=64 * height)
    red, lit, blue = ImageStat.Stat(picture(*seen(form, stream.getvalue()))).mean
    assert max(red, abs(lit - 200), blue) < 6


@pytest.mark.parametrize("name", ["h264", "h264 in fragments", "vp9", "gif"])
def test_videos_that_are_too_long_or_have_large_frames_are_refused_before_decoding(name: str) -> None:
    with pytest.raises(CorruptObjectError, match=r"must last at most 0\.5 seconds, got \S+; raise max_seconds"):
        seen(VideoFrames(every=50, max_seconds=0.5, max_pixels=64 * 48), video(name))
    found = VideoFrames(every=1, max_seconds=10, max_pixels=64 * 48 - 1).items(source_of(video(name)), Chunk())
    with pytest.raises(CorruptObjectError, match=r"frames must have at most 3,071 pixels, got (64 x 48|more)"):
        next(found)


def test_a_frame_that_is_too_wide_for_a_jpeg_is_refused() -> None:
    stream = io.BytesIO()
    Image.new("P", (65_501, 1)).save(stream, "GIF")
    with pytest.raises(CorruptObjectError, match="at most 65,500 pixels a side, got 65,501 x 1; scale the video"):
        seen(VideoFrames(every=1, max_seconds=10, max_pixels=10**6), stream.getvalue())


def test_a_video_that_says_no_length_is_refused_where_it_becomes_too_long() -> None:
    live = encoded(grays(), "webm", "libvpx-vp9", {"g": "5"}, muxing={"live": "1"})
    items = VideoFrames(every=1, max_seconds=0.5, max_pixels=64 * 48).items(source_of(live), Chunk())
    first = [next(items) for _ in range(8)]
    assert len(shown(first)) > 5
    with pytest.raises(CorruptObjectError, match=r"must last at most 0\.5 seconds, got more"):
        list(items)
    fast = encoded(grays(), "matroska", "libx264", {"g": "7"}, times=[0] * 29 + [1])
    with pytest.raises(CorruptObjectError, match=r"at most 24 frames, got 25|must last"):
        seen(VideoFrames(every=1, max_seconds=0.1, max_pixels=64 * 48), fast)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_file_that_is_cut_off_fails_before_its_end(name: str, share: float) -> None:
    data = video(name)
    with pytest.raises(CorruptObjectError):
        seen(FORM, data[: int(len(data) * share)])


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(CODECS)), at=st.floats(0, 1), put=st.binary(min_size=1, max_size=16), cut=st.booleans()
)
def test_damage_gives_frames_or_one_kind_of_error(name: str, at: float, put: bytes, cut: bool) -> None:
    data = bytearray(video(name))
    place = int(at * len(data))
    data[place : place + len(put)] = b"" if cut else put
    try:
        found = [one for one in seen(FORM, bytes(data)) if isinstance(one, Found)]
    except CorruptObjectError:
        return
    assert all(picture(one).width * picture(one).height <= 64 * 48 for one in found)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be an MP4, WebM or GIF file, got one that begins with "),
        (b"RIFF\0\0\0\0AVI ", "must be an MP4, WebM or GIF file, got one that begins with 52494646"),
        (b"#EXTM3U\nhttp://169.254.169.254/", "must be an MP4, WebM or GIF file"),
        (b"\0\0\0\x08ftyp", "must be whole|video track"),
        (b"\0\0\0\x10ftypisom", "MP4 file must be whole"),
        (b"\x1aE\xdf\xa3", "must be whole, got damage after 0 frames"),
        (b"\x1aE\xdf\xa3\x80\x18S\x80g\x88", "WebM file must be whole"),
        (b"GIF89a", "GIF file must be whole"),
        (b"GIF89a;", "must"),
    ],
)
def test_other_objects_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(CorruptObjectError, match=message):
        seen(FORM, data)


def test_a_recording_without_pictures_and_other_codecs_are_refused() -> None:
    sound = io.BytesIO()
    with av.open(sound, "w", format="matroska") as written:
        track = written.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=1024)
        frame.sample_rate, frame.pts = 8000, 0
        written.mux(track.encode(frame))
    with pytest.raises(CorruptObjectError, match="must have a video track, got none"):
        seen(FORM, sound.getvalue())
    with pytest.raises(CorruptObjectError, match=r"must be H.264, .* or GIF, got mjpeg"):
        seen(FORM, encoded(grays(3), "mp4", "mjpeg", form="yuvj420p"))


class Throttled(Stored):
    """S3 that gives some parts, and then no more."""

    def __init__(self, data: bytes, parts: int) -> None:
        super().__init__(data)
        self.parts = parts

    def get_object(self, **asked: Any) -> dict[str, Any]:
        if len(self.ranges) >= self.parts:
            raise ClientError({"Error": {"Code": "SlowDown"}}, "GetObject")
        return super().get_object(**asked)


def test_what_s3_cannot_give_now_is_tried_again_and_the_next_video_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference_runtime.splitting.video_frames._BUFFER_BYTES", 1024)
    monkeypatch.setattr("inference_runtime.splitting.source.PAGE", 512)
    data = encoded(grays(60), options={"crf": "0", "g": "5"})
    wanted = Stored(data)
    whole = list(FORM.items(Source(wanted, item_of(len(data))), Chunk()))  # type: ignore[arg-type]
    assert len(wanted.ranges) > 5
    for parts in range(len(wanted.ranges)):
        source = Source(Throttled(data, parts), item_of(len(data)))  # type: ignore[arg-type]
        with pytest.raises(RetryableError, match="SlowDown"):
            list(FORM.items(source, Chunk()))
    assert seen(FORM, data) == whole
