"""Decodes recordings, mixes them down to one channel, and brings them to the model's sampling rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.recordings.sound import Longest
from inference_runtime.stages.builtin.recordings.wav import read_wav
from inference_runtime.stages.builtin.segments import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference_runtime.stages.builtin.recordings.sound import Samples, Sound
    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

    Read = Callable[[bytes, Longest], Sound]

ZERO_CROSSINGS = 32
"""Half the length of the resampling filter, in periods of the lower of both rates."""

ROLLOFF = 0.94
"""Share of the lower Nyquist frequency at which the filter is down to a half."""

KAISER_BETA = 9.0
"""Shape of its window: frequencies that would fold back are at least 80 dB down."""

_SIGNATURES = {"wav": b"RIFF", "flac": b"fLaC", "ogg": b"OggS"}
_TAG_HEADER, _HAS_FOOTER = 10, 0x10  # bytes, and a flag
_NAMES = {"wav": "WAV", "flac": "FLAC", "ogg": "Ogg"}


def audio_preprocessor(
    sample_rate: int,
    max_seconds: float,
    too_long: Literal["truncate", "reject"] = "reject",
    pad_to_multiple_of: float | None = None,
    formats: Sequence[Literal["wav", "flac", "ogg"]] = ("wav",),
    measure: str | None = None,
) -> Callable[[bytes, Item], Array | dict[str, Any]]:
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
    formats
        The formats that are read; what a file is, its first bytes say. All but `wav` need soundfile.
    measure
        Name of the model's input, if `seconds` are to be kept.

    Returns
    -------
    Callable
        `preprocess(data, item)`, returning float32 samples from -1 to 1, of shape `(samples,)`. With `measure`, a dict
        with the samples by that name, and `seconds`, how long they are without what they were filled up with.
    """
    most = round(max_seconds * sample_rate)
    block = None if pad_to_multiple_of is None else max(1, round(pad_to_multiple_of * sample_rate))
    longest = Longest(max_seconds, too_long)
    readers = {_SIGNATURES[name]: _reader(name) for name in formats}
    known = " or ".join(_NAMES[name] for name in formats)

    def preprocess(data: bytes, item: Item) -> Array | dict[str, Any]:  # noqa: ARG001 - the stage's signature
        data = _without_tag(data)
        read = readers.get(data[:4])
        if read is None:
            raise RejectItem(f"not a {known} file")
        sound = read(data, longest)
        samples = resampled(sound.samples, sound.rate, sample_rate)[:most]
        seconds = len(samples) / sample_rate
        if block is not None:
            samples = np.pad(samples, (0, -len(samples) % block))
        return samples if measure is None else {measure: samples, SECONDS: seconds}

    return preprocess


def _without_tag(data: bytes) -> bytes:
    """Return a file without the ID3 tag that some programs put in front of FLAC.

    See https://id3.org/id3v2.4.0-structure, sections 3.1 and 3.4.
    """
    if data[:3] != b"ID3" or len(data) < _TAG_HEADER:
        return data
    flags, *sizes = data[5:_TAG_HEADER]
    size = sum(size << 7 * place for place, size in enumerate(reversed(sizes)))  # 7 bits of each byte
    return data[_TAG_HEADER + size + (_TAG_HEADER if flags & _HAS_FOOTER else 0) :]


def _reader(name: str) -> Read:
    if name == "wav":
        return read_wav
    # libsndfile is in the package only if a format needs it.
    from inference_runtime.stages.builtin.recordings.compressed import read_flac, read_ogg  # noqa: PLC0415

    return read_flac if name == "flac" else read_ogg


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
