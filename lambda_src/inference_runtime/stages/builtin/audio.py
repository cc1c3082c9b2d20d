"""Decodes recordings in WAV, mixes them down to one channel, and brings them to the model's sampling rate."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from inference_runtime.errors import RejectItem

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

    Samples = npt.NDArray[np.float32]

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sampling rates in Hz that are read."""

MOST_CHANNELS = 32

ZERO_CROSSINGS = 32
"""Half the length of the resampling filter, in periods of the lower of both rates."""

ROLLOFF = 0.94
"""Share of the lower Nyquist frequency at which the filter is down to a half."""

KAISER_BETA = 9.0
"""Shape of its window: frequencies that would fold back are at least 80 dB down."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_SIZE = 0xFFFFFFFF  # of a file that was written into a pipe
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


def audio_preprocessor(
    sample_rate: int,
    max_seconds: float,
    too_long: Literal["truncate", "reject"] = "reject",
    pad_to_multiple_of: float | None = None,
) -> Callable[[bytes, Item], Array]:
    """Return a preprocessing function for recordings.

    Parameters
    ----------
    sample_rate
        In Hz.
    max_seconds
        The longest recording.
    too_long
        Whether longer ones are rejected, or cut.
    pad_to_multiple_of
        Seconds to whose next multiple recordings are filled up with silence; None for their own length.

    Returns
    -------
    Callable
        `preprocess(data, item)`, returning float32 samples from -1 to 1, of shape `(samples,)`.
    """
    most = round(max_seconds * sample_rate)
    block = None if pad_to_multiple_of is None else max(1, round(pad_to_multiple_of * sample_rate))

    def preprocess(data: bytes, item: Item) -> Array:  # noqa: ARG001 - the stage's signature
        form, sound = _read(data)
        frames = len(sound) // (form.channels * form.bits // 8)
        if frames == 0:
            raise RejectItem("the recording is empty")
        if frames > max_seconds * form.rate:
            if too_long == "reject":
                raise RejectItem(
                    f"the recording takes {frames / form.rate:.1f} s, and {max_seconds:g} s at most are read"
                )
            frames = math.ceil(max_seconds * form.rate)
        samples = resampled(_decoded(form, sound, frames), form.rate, sample_rate)[:most]
        if block is None:
            return samples
        return np.pad(samples, (0, -len(samples) % block))

    return preprocess


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
    while place + 8 <= len(data):
        name, (size,) = data[place : place + 4], struct.unpack_from("<I", data, place + 4)
        place += 8
        left = len(data) - place
        if name == b"data":
            if form is None:
                raise RejectItem("WAV file has its samples before their format")
            if size > left and size != _UNKNOWN_SIZE:
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
    if not 1 <= channels <= MOST_CHANNELS or block != channels * bits // 8:
        raise RejectItem(f"WAV file has {channels} channels in blocks of {block} bytes")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise RejectItem(f"WAV file has a sampling rate of {rate:,} Hz")
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
        if not np.isfinite(mono).all():
            raise RejectItem("the recording has samples that are not numbers")
        return mono
    if form.bits == 8:  # noqa: PLR2004 - the only ones without a sign
        mono -= 128
    mono /= 2 ** (values.itemsize * 8 - 1)
    return mono


def resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """Return samples at another rate, by a sinc filter with a Kaiser window.

    It has one set of weights for each place that an output can have between two samples. See Crochiere and Rabiner,
    Multirate Digital Signal Processing, 1983, chapter 3, on polyphase structures.

    Parameters
    ----------
    samples
        One channel.
    rate, wanted
        In Hz.
    """
    if rate == wanted:
        return samples
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    cutoff = min(1.0, up / down) * ROLLOFF  # as a share of the Nyquist frequency of the samples
    reach = math.ceil(ZERO_CROSSINGS * max(1.0, down / up))
    count = -(-len(samples) * up // down)
    found = np.zeros(count, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (reach, reach + down)), 2 * reach + 1)
    for phase in range(min(up, count)):
        place = phase * down
        distances = np.arange(-reach, reach + 1) - place % up / up
        shape = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - (distances / (reach + 1)) ** 2, 0, None))) / np.i0(KAISER_BETA)
        weights = (cutoff * np.sinc(cutoff * distances) * shape).astype(np.float32)
        into = found[phase::up]
        # Without a copy of the windows, which overlap.
        into[:] = np.einsum("ij,j->i", windows[place // up :: down][: len(into)], weights)
    return found
