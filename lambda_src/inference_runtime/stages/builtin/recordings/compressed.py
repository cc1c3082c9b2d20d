"""Decodes FLAC and Ogg (Vorbis, Opus) with libsndfile, block by block, and no further than is read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.recordings.ogg import check_pages
from inference_runtime.stages.builtin.recordings.sound import Sound, check_finite, check_format

if TYPE_CHECKING:
    from inference_runtime.stages.builtin.recordings.sound import Longest, Samples

_BLOCK = 1 << 20
"""Samples of all channels that are decoded at a time: 4 MiB."""

_MOST_FRAMES = 1 << 26
"""Samples of a channel that are decoded at most, 256 MiB; or as many as the longest recording has at a usual rate."""

_USUAL_RATE = 48_000
"""Opus has it always, and hardly any recording a higher one."""

_UNKNOWN = 2**63 - 1
"""The length of a FLAC file that was written into a pipe."""


class _Stream(soundfile.SoundFile):  # type: ignore[misc] # it has no types
    """A recording that is read once, from its beginning."""

    def seekable(self) -> bool:
        """Tell soundfile not to seek after each block, which fails at the end of a file of unknown length."""
        return False


def read_flac(data: bytes, longest: Longest) -> Sound:
    """Return the mean of the channels of a FLAC file.

    Raises
    ------
    RejectItem
        If it is damaged, cut off, empty or too long.
    """
    return _read("FLAC", data, longest)


def read_ogg(data: bytes, longest: Longest) -> Sound:
    """Return the mean of the channels of an Ogg file.

    Raises
    ------
    RejectItem
        If it is damaged, cut off, empty or too long, or has several streams.
    """
    check_pages(data)
    return _read("Ogg", data, longest)


def _read(kind: str, data: bytes, longest: Longest) -> Sound:
    try:
        with _Stream(io.BytesIO(data)) as stream:
            check_format(kind, stream.channels, stream.samplerate)
            return Sound(_decoded(kind, stream, longest), stream.samplerate)
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
        raise RejectItem(f"{kind} file is damaged: {reason or 'it cannot be decoded'}") from error


def _decoded(kind: str, stream: _Stream, longest: Longest) -> Samples:
    """Return frames as the mean of their channels, as many as are read: a few bytes may be hours, or a high rate."""
    known, rate = stream.frames != _UNKNOWN, stream.samplerate
    most = max(_MOST_FRAMES, longest.most(_USUAL_RATE))
    if known:
        wanted = longest.frames(stream.frames, rate)
        _check_count(kind, wanted, most, rate)
    else:
        wanted = min(longest.most(rate), most) + 1  # one more tells whether there are too many
    blocks, count = [], 0
    while count < wanted:
        block = stream.read(min(wanted - count, _BLOCK // stream.channels), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block.mean(axis=1, dtype=np.float32))
        count += len(block)
    if known and count < wanted:
        raise RejectItem(f"{kind} file is truncated: it has {count:,} samples of {stream.frames:,}")
    if not known:
        wanted = longest.frames(count, rate)
        _check_count(kind, wanted, most, rate)
    samples = np.concatenate(blocks)[:wanted]
    check_finite(samples)
    return samples


def _check_count(kind: str, count: int, most: int, rate: int) -> None:
    """Reject a recording of so many samples that they do not fit the memory, however small the file."""
    if count > most:
        raise RejectItem(f"{kind} file has a sampling rate of {rate:,} Hz, and {most:,} samples at most are decoded")
