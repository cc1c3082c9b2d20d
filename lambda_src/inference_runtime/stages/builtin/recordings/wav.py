"""Decodes WAV files: PCM of 8 to 32 bits, and floats."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.recordings.sound import Sound, check_finite, check_format

if TYPE_CHECKING:
    from inference_runtime.stages.builtin.recordings.sound import Longest, Samples

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_SIZE = 0x7FFFF000  # and above: of a file that was written into a pipe, as by eSpeak NG, SoX or FFmpeg
_KINDS = {
    (_PCM, 8): "u1",
    (_PCM, 16): "<i2",
    (_PCM, 24): "<i4",  # filled up: NumPy has no type of three bytes
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}
_HEADER, _FORMAT = 12, 16  # bytes


class _Format(NamedTuple):
    kind: int
    channels: int
    rate: int
    bits: int


def read_wav(data: bytes, longest: Longest) -> Sound:
    """Return the mean of the channels of a WAV file.

    Raises
    ------
    RejectItem
        If it is something else, damaged, empty or too long.
    """
    form, sound = _read(data)
    frames = longest.frames(len(sound) // (form.channels * form.bits // 8), form.rate)
    return Sound(_decoded(form, sound, frames), form.rate)


def _read(data: bytes) -> tuple[_Format, memoryview]:
    """Return the format of a WAV file, and its samples.

    Raises
    ------
    RejectItem
        If it is something else, or damaged.
    """
    if len(data) < _HEADER or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise RejectItem("not a WAV file")
    view, place, form = memoryview(data), _HEADER, None
    (whole,) = struct.unpack_from("<I", data, 4)
    while place + 8 <= len(data):
        name, (size,) = data[place : place + 4], struct.unpack_from("<I", data, place + 4)
        place += 8
        left = len(data) - place
        if name == b"data":
            if form is None:
                raise RejectItem("WAV file has its samples before their format")
            if size == whole == 0:  # of a recorder that was stopped before it wrote them, or into a pipe
                size = left
            if left < size < _UNKNOWN_SIZE:
                raise RejectItem(f"WAV file is truncated: it has {left:,} bytes of samples of {size:,}")
            return form, view[place : place + min(size, left)]
        if name == b"fmt ":
            form = _format(data[place : place + size])
        place += size + size % 2
    raise RejectItem("WAV file has no samples")


def _format(chunk: bytes) -> _Format:
    if len(chunk) < _FORMAT:
        raise RejectItem("WAV file has a damaged format")
    kind, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and len(chunk) >= _FORMAT + 10:
        (kind,) = struct.unpack_from("<H", chunk, _FORMAT + 8)
    if (kind, bits) not in _KINDS:
        raise RejectItem(f"WAV file has samples of format {kind} with {bits} bits, expected PCM or floats")
    check_format("WAV", channels, rate)
    if block != channels * bits // 8:
        raise RejectItem(f"WAV file has {channels} channels in blocks of {block} bytes")
    return _Format(kind, channels, rate, bits)


def _decoded(form: _Format, sound: memoryview, frames: int) -> Samples:
    """Return some frames as the mean of their channels, from -1 to 1."""
    size = form.bits // 8
    sound = sound[: frames * form.channels * size]
    if form.bits == 24:  # noqa: PLR2004
        wide = np.zeros((frames * form.channels, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(sound, np.uint8).reshape(-1, size)
        values = wide.view("<i4").reshape(-1)
    else:
        values = np.frombuffer(sound, _KINDS[form.kind, form.bits])
    mono = np.zeros(frames, np.float32)
    for channel in range(form.channels):  # one at a time: all of them as floats would take several times the file
        mono += values[channel :: form.channels].astype(np.float32)
    mono /= form.channels
    if form.kind == _FLOAT:
        check_finite(mono)
        return mono
    if form.bits == 8:  # noqa: PLR2004 - the only ones without a sign
        mono -= 128
    mono /= 2 ** (values.itemsize * 8 - 1)
    return mono
