"""Recordings are decoded as the standard library writes them, and never trusted about their size."""

from __future__ import annotations

import io
import struct
import tracemalloc
import wave
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.audio import audio_preprocessor, resampled

RATE = 16_000
read = audio_preprocessor(RATE, 10.0)


def wav(frames: np.ndarray, rate: int = RATE, width: int = 2) -> bytes:
    """Return (frames, channels) from -1 to 1 as PCM, as the standard library writes it."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(frames.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        whole = np.rint(frames * (2 ** (8 * width - 1) - 1)).astype("<i8")
        raw = (whole + 128).astype(np.uint8) if width == 1 else whole.astype("<i4")
        file.writeframes(raw.tobytes() if width in (1, 4) else raw.reshape(-1, 1).view(np.uint8)[:, :width].tobytes())
    return stream.getvalue()


def riff(kind: int, bits: int, data: bytes, *, channels: int = 1, size: int | None = None, more: bytes = b"") -> bytes:
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, RATE, RATE * block, block, bits) + more
    chunks = b"LIST\x03\0\0\0abc\0" + b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


def tone(frequency: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pcm_of_any_width_becomes_one_channel_of_floats(width: int, channels: int) -> None:
    frames = np.random.default_rng(width).uniform(-1, 1, (400, channels))
    found = read(wav(frames, width=width), None)
    assert (found.dtype, found.shape) == (np.float32, (400,))
    np.testing.assert_allclose(found, frames.mean(axis=1), atol=2.5 / 2 ** (8 * width - 1) + 1e-6)


def test_floats_and_extensible_formats_and_files_from_a_pipe() -> None:
    samples = np.linspace(-1, 1, 50).astype("<f4")
    stopped = riff(3, 32, samples.tobytes(), size=0)  # a recorder writes the sizes last
    for made in (
        stopped[:4] + bytes(4) + stopped[8:],
        riff(3, 32, samples.tobytes()),
        riff(3, 64, samples.astype("<f8").tobytes()),
        riff(3, 32, samples.tobytes(), size=0xFFFFFFFF),  # FFmpeg
        riff(3, 32, samples.tobytes(), size=0x7FFFF000),  # eSpeak NG
        riff(0xFFFE, 32, samples.tobytes(), more=struct.pack("<HHIH", 22, 32, 4, 3) + bytes(14)),
    ):
        np.testing.assert_allclose(read(made, None), samples, atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_a_tone_is_the_same_tone_at_another_rate_and_what_folds_back_is_gone(rate: int) -> None:
    nyquist = min(rate, RATE) / 2
    for frequency in (300.0, 0.8 * nyquist):
        found = resampled(tone(frequency, rate), rate, RATE)
        inner = slice(800, -800)  # without the ends, where the tone begins and stops
        np.testing.assert_allclose(found[inner], tone(frequency, RATE)[: len(found)][inner], atol=2e-3)
    if rate > RATE:
        folded = resampled(tone(1.1 * nyquist, rate), rate, RATE)[800:-800]
        assert np.abs(folded).max() < 1e-4  # 80 dB


@given(st.integers(1, 300), st.sampled_from([(3, 2), (2, 3), (1, 7), (441, 160), (16_000, 15_999)]))
def test_resampling_gives_what_the_sum_over_all_samples_gives(count: int, rates: tuple[int, int]) -> None:
    samples = np.random.default_rng(count).normal(0, 1, count).astype(np.float32)
    rate, wanted = rates
    found = resampled(samples, rate, wanted)
    assert len(found) == -(-count * wanted // rate)
    cutoff, reach = min(1.0, wanted / rate) * 0.94, int(np.ceil(32 * max(1.0, rate / wanted)))
    for place in {0, len(found) // 2, len(found) - 1}:
        time = place * rate / wanted
        near = np.arange(max(0, int(time) - reach), min(count, int(time) + reach + 1))
        distances = near - time
        window = np.i0(9 * np.sqrt(np.clip(1 - (distances / (reach + 1)) ** 2, 0, None))) / np.i0(9)
        assert found[place] == pytest.approx(
            np.sum(samples[near] * cutoff * np.sinc(cutoff * distances) * window), abs=1e-4
        )


def test_long_recordings_are_rejected_or_cut_and_short_ones_filled_up() -> None:
    data = wav(np.ones((20_000, 1)) * 0.5, rate=8_000)
    with pytest.raises(RejectItem, match=r"takes 2\.5 s, and 2 s at most are read"):
        audio_preprocessor(RATE, 2.0)(data, None)
    assert audio_preprocessor(RATE, 2.0, "truncate")(data, None).shape == (32_000,)
    filled = audio_preprocessor(RATE, 4.0, pad_to_multiple_of=2.0)(data, None)
    assert filled.shape == (64_000,)
    assert (filled[41_000:] == 0).all()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a WAV file"),
        (b"RIFX\0\0\0\0WAVE", "not a WAV file"),
        (b"RIFF\0\0\0\0WAVE", "no samples"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "samples before their format"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0ab", "damaged format"),
        (riff(1, 16, b""), "empty"),
        (riff(1, 16, bytes(4), size=400), "truncated: it has 4 bytes of samples of 400"),
        (riff(1, 12, bytes(4)), "format 1 with 12 bits"),
        (riff(85, 16, bytes(4)), "format 85 with 16 bits"),
        (riff(1, 16, bytes(4), channels=0), "0 channels"),
        (riff(3, 32, np.array([np.nan], "<f4").tobytes()), "not numbers"),
        (wav(np.zeros((9, 1)), rate=7), "rate of 7 Hz"),
    ],
)
def test_what_is_no_recording_is_rejected(data: bytes, says: str) -> None:
    with pytest.raises(RejectItem, match=says):
        read(data, None)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_damage_is_rejected_or_read_but_never_an_error(junk: bytes, place: int) -> None:
    whole = wav(np.zeros((40, 2)))
    for data in (junk, whole[:place] + junk + whole[place:], whole[:place] + junk):
        try:
            found: Any = read(data, None)
        except RejectItem:
            continue
        assert found.ndim == 1


def test_a_recording_takes_a_few_times_its_samples_in_memory() -> None:
    data = wav(np.zeros((48_000 * 60, 1)), rate=48_000)
    preprocess = audio_preprocessor(RATE, 60.0)
    tracemalloc.start()
    preprocess(data, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * len(data)
