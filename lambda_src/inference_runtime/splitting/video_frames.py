"""MP4, WebM and animated GIF: frames of a video are items, which come as JPEGs.

FFmpeg decodes one frame after another. The first bytes of an object decide which of its readers is used: others would
follow the names of files and hosts that they find.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import av
from PIL import Image

from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk, Found, Restart
from inference_runtime.splitting.source import SourceFile
from inference_runtime.splitting.video_files import video_format

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from inference_runtime.splitting.formats import Entry
    from inference_runtime.splitting.source import Source

_DECODERS = frozenset({"h264", "hevc", "libdav1d", "av1", "vp8", "vp9", "mpeg4", "gif"})
_BUFFER_BYTES = 1024**2
_MICROSECONDS = 1e-6  # in which FFmpeg gives the length of a file
_BORDER_PIXELS = 65_536
_MOST_FRAMES_A_SECOND = 240
_HD_LINES = 720
"""Videos with so many lines have the colours of ITU-R BT.709 where they do not say, and others those of BT.601."""

_UNSPECIFIED = 2
"""A colour space that is not named, in ITU-T H.273."""

_QUALITY = 95
"""The quality of the JPEGs. Pillow advises against more, which makes files larger and hardly better."""

_MOST_SIDE = 65_500
"""Pixels of a side of a JPEG at most, as libjpeg writes it."""

_UPRIGHT = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""How a frame is turned, by the upper left of its display matrix: ISO/IEC 14496-12, section 6.2.2."""

_MATRIX = struct.Struct("=9i")
_ONE = 65_536  # in such a matrix
_WHITE = (255, 255, 255)


class VideoFrames:
    """Videos in H.264, HEVC, AV1, VP8, VP9 or MPEG-4 part 2, and animated GIFs.

    The number of an item is that of its frame, in the order in which frames are shown. Frames are turned as the file
    says, and transparency is laid on white. One frame is in memory besides those that the decoder refers to.

    Parameters
    ----------
    every
        One of so many frames is an item, beginning with the first.
    max_seconds
        A longer video is refused.
    max_pixels
        A video with larger frames is refused before one is decoded.
    """

    def __init__(self, every: int, max_seconds: float, max_pixels: int) -> None:
        self._every = every
        self._max_seconds = max_seconds
        self._max_pixels = max_pixels
        # FFmpeg decodes a few frames already while it opens a file. Some decoders count a border around each frame.
        self._limit = {"max_pixels": str(2 * max_pixels + _BORDER_PIXELS)}
        self._most_frames = round(max_seconds * _MOST_FRAMES_A_SECOND)

    def splits(self, source: Source) -> bool:  # noqa: ARG002 - of the protocol
        """Return False: only decoding tells the numbers of frames."""
        return False

    def head(self, source: Source) -> None:
        """Return nothing: the file is opened for each chunk."""

    def scan(self, source: Source) -> Iterator[Entry]:  # noqa: ARG002 - of the protocol
        """Yield nothing: a video is one chunk."""
        return iter(())

    def items(self, source: Source, chunk: Chunk) -> Iterator[Found | Restart]:
        """Yield frames, from where a chunk begins: the time of a key frame in the units of the video, or its beginning.

        Raises
        ------
        CorruptObjectError
            The object is not a video, is damaged, or has more of something than it may.
        """
        number = chunk.number - 1
        try:
            with self._open(source) as container:
                stream = self._stream(container)
                for number, frame in enumerate(self._frames(container, stream, chunk), chunk.number):
                    self._check(stream, frame, number)
                    if number > chunk.number and frame.key_frame and frame.pts is not None:
                        yield Restart(Chunk(start=frame.pts, number=number))
                    if (number - 1) % self._every == 0:
                        yield Found(number=number, data=_jpeg(frame))
        except av.FFmpegError as error:
            raise CorruptObjectError(f"video must be whole, got damage after {number:,} frames: {error}") from error
        if number < chunk.number:
            raise CorruptObjectError("video must have frames, got none that can be decoded")

    def _open(self, source: Source) -> InputContainer:
        return av.open(
            _VideoFile(source, most=_BUFFER_BYTES),
            "r",
            format=video_format(source),
            options={**self._limit, "codec_whitelist": ",".join(_DECODERS), "threads": "1"},
            buffer_size=_BUFFER_BYTES,
            metadata_errors="replace",
        )

    def _stream(self, container: InputContainer) -> VideoStream:
        """Return the video of a file, once its header keeps the limits."""
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise CorruptObjectError("file must have a video track, got none that can be decoded")
        decoder = stream.codec_context
        if decoder is None or decoder.name not in _DECODERS:
            raise CorruptObjectError(
                "video must be H.264, HEVC, AV1, VP8, VP9, MPEG-4 or GIF, got "
                f"{'another codec' if decoder is None else decoder.name}"
            )
        if not stream.width:
            raise CorruptObjectError(
                f"frames must have at most {self._max_pixels:,} pixels, got more, or none that can be decoded"
            )
        self._check_pixels(stream.width, stream.height)
        seconds = (container.duration or 0) * _MICROSECONDS
        if seconds > self._max_seconds:
            raise self._too_long(f"{seconds:,.1f}")
        if stream.frames > self._most_frames:
            raise self._too_many(stream.frames)
        decoder.options = self._limit
        decoder.thread_count = 1
        return stream

    def _frames(self, container: InputContainer, stream: VideoStream, chunk: Chunk) -> Iterator[VideoFrame]:
        resumed = chunk.number > 1
        if resumed:
            container.seek(chunk.start, stream=stream)
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise CorruptObjectError("video must be whole, got one that is cut off")
            for frame in packet.decode():
                # Frames before a key frame may follow it in the file, and had their numbers before.
                if resumed and (frame.pts is None or frame.pts < chunk.start):
                    continue
                resumed = False
                yield frame

    def _check(self, stream: VideoStream, frame: VideoFrame, number: int) -> None:
        self._check_pixels(frame.width, frame.height)
        if number > self._most_frames:
            raise self._too_many(number)
        begin = 0 if stream.start_time is None or stream.time_base is None else stream.start_time * stream.time_base
        if frame.time is not None and frame.time - float(begin) > self._max_seconds:
            raise self._too_long("more")

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise CorruptObjectError(
                f"frames must have at most {self._max_pixels:,} pixels, got {width:,} x {height:,}; raise max_pixels"
            )
        if max(width, height) > _MOST_SIDE:
            raise CorruptObjectError(
                f"frames must have at most {_MOST_SIDE:,} pixels a side, got {width:,} x {height:,}; scale the video"
            )

    def _too_long(self, seconds: str) -> CorruptObjectError:
        return CorruptObjectError(
            f"video must last at most {self._max_seconds:,g} seconds, got {seconds}; raise max_seconds"
        )

    def _too_many(self, count: int) -> CorruptObjectError:
        return CorruptObjectError(
            f"video must have at most {self._most_frames:,} frames, got {count:,}; raise max_seconds"
        )


class _VideoFile(SourceFile):
    """An object that seems to end where it cannot be read: FFmpeg would try again, and PyAV raises the first error."""

    _is_broken = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, or fewer at the end of the object."""
        if self._is_broken:
            return b""
        self._is_broken = True
        data = super().read(size)
        self._is_broken = False
        return data


def _jpeg(frame: VideoFrame) -> bytes:
    """Return a frame as a picture that stands upright and has no transparency."""
    clear = any(component.is_alpha for component in frame.format.components)
    unknown = frame.colorspace == _UNSPECIFIED and frame.height >= _HD_LINES
    plain = frame.reformat(format="rgba" if clear else "rgb24", src_colorspace="ITU709" if unknown else None, threads=1)
    [plane] = plain.planes
    mode = "RGBA" if clear else "RGB"
    image = Image.frombuffer(mode, (frame.width, frame.height), bytes(plane), "raw", mode, plane.line_size, 1)
    if clear:
        laid = Image.new("RGB", image.size, _WHITE)
        laid.paste(image, mask=image)
        image = laid
    if (turn := _turn(frame)) is not None:
        image = image.transpose(turn)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def _turn(frame: VideoFrame) -> Image.Transpose | None:
    """Return how a frame is turned or mirrored to be shown; None also for another angle."""
    if "DISPLAYMATRIX" not in frame.side_data:
        return None
    given = bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item] # PyAV's types do not know it
    a, b, _, c, d, *_ = (round(value / _ONE) for value in _MATRIX.unpack(given))
    return _UPRIGHT.get((a, b, c, d))
