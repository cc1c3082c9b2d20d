"""FLAC and Ogg are decoded as libsndfile writes them, and never trusted about their size."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.audio import audio_preprocessor
from inference_runtime.stages.builtin.recordings import compressed

RATE = 16_000
FORMATS = ("wav", "flac", "ogg")
read = audio_preprocessor(RATE, 10.0, formats=FORMATS)
cut = audio_preprocessor(RATE, 0.5, "truncate", formats=FORMATS)


def encoded(frames: np.ndarray, kind: str, subtype: str | None = None, rate: int = RATE) -> bytes:
    """Return (frames, channels) in some format, written in blocks, as recorders do."""
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", rate, frames.shape[1], subtype, format=kind) as file:
        for start in range(0, len(frames), 4096):
            file.write(frames[start : start + 4096])
    return stream.getvalue()


def tone(seconds: float, rate: int = RATE, channels: int = 2) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def of_length(flac: bytes, frames: int) -> bytes:
    """Return a FLAC file whose header says another length; 0 is unknown."""
    changed = bytearray(flac)
    changed[21] = changed[21] & 0xF0 | frames >> 32  # 36 bits, see RFC 9639, section 8.2
    changed[22:26] = (frames & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(changed)


FLAC = encoded(tone(1.0), "FLAC")
VORBIS = encoded(tone(1.0), "OGG", "VORBIS")
OPUS = encoded(tone(1.0), "OGG", "OPUS")


@given(
    st.integers(0, 2**32),
    st.integers(1, 5_000),
    st.integers(1, 6),
    st.sampled_from([("PCM_16", 16), ("PCM_24", 8)]),
    st.sampled_from([8_000, 16_000, 44_100]),
)
def test_flac_gives_exactly_what_wav_gives(
    seed: int, count: int, channels: int, sample: tuple[str, int], rate: int
) -> None:
    subtype, unused = sample
    random = np.random.default_rng(seed)
    whole = random.integers(-(2**31), 2**31, (count, channels), np.int32) >> unused << unused
    found, expected = (read(encoded(whole, kind, subtype, rate), None) for kind in ("FLAC", "WAV"))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("data", [VORBIS, OPUS], ids=["vorbis", "opus"])
def test_ogg_gives_the_tone_that_was_recorded(data: bytes) -> None:
    found = read(data, None)
    assert found.shape == (RATE,)
    error = found - tone(1.0)[:, 0]
    assert np.mean(error[800:-800] ** 2) < 1e-3 * np.mean(found**2)  # 30 dB


def test_an_opus_file_is_brought_to_the_wanted_rate() -> None:
    assert read(encoded(tone(1.0, 48_000), "OGG", "OPUS", 48_000), None).shape == (RATE,)


def test_a_flac_file_from_a_pipe_does_not_say_its_length() -> None:
    unknown = of_length(FLAC, 0)
    np.testing.assert_array_equal(read(unknown, None), read(FLAC, None))
    np.testing.assert_array_equal(cut(unknown, None), read(FLAC, None)[: RATE // 2])
    with pytest.raises(RejectItem, match=r"takes 0\.5 s, and 0\.5 s at most are read"):
        audio_preprocessor(RATE, 0.5, formats=("flac",))(unknown, None)


@given(st.binary(max_size=300), st.booleans())
def test_a_tag_in_front_of_a_flac_file_is_skipped(tag: bytes, footer: bool) -> None:
    head = b"ID3\4\0" + bytes([0x10 * footer, 0, 0, len(tag) >> 7, len(tag) & 0x7F])
    end = b"3DI" + head[3:] if footer else b""
    np.testing.assert_array_equal(read(head + tag + end + FLAC, None), read(FLAC, None))


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_hours_of_silence_in_a_small_file_take_no_memory(kind: str, subtype: str) -> None:
    data = encoded(np.zeros((8_000 * 120, 2), np.int16), kind, subtype, 8_000)
    tracemalloc.start()
    with pytest.raises(RejectItem, match=r"takes 120\.0 s, and 10 s at most are read"):
        read(data, None)
    _, refused = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    assert cut(data, None).shape == (RATE // 2,)
    _, shortened = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused < len(data) + 100_000
    assert shortened < len(data) + 1_500_000


@pytest.mark.parametrize("known", [True, False])
def test_silence_at_a_high_rate_is_not_decoded_without_end(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "_MOST_FRAMES", 1_000)
    rate = 384_000
    whole = encoded(np.zeros((rate, 1), np.int16), "FLAC", rate=rate)
    data = whole if known else of_length(whole, 0)
    assert audio_preprocessor(RATE, 8.0, formats=("flac",))(data, None).shape == (RATE,)
    with pytest.raises(RejectItem, match=r"rate of 384,000 Hz, and 96,000 samples at most are decoded"):
        audio_preprocessor(RATE, 2.0, formats=("flac",))(data, None)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a WAV or FLAC or Ogg file"),
        (b"ID3\3" + bytes(40), "not a WAV or FLAC or Ogg file"),
        (b"ID3\3" + b"\xff" * 40 + FLAC, "not a WAV or FLAC or Ogg file"),
        (b"ID3\3", "not a WAV or FLAC or Ogg file"),
        (b"fLaC" + bytes(40), "FLAC file is damaged: File contains data in an unimplemented format"),
        (FLAC[: len(FLAC) // 2], "FLAC file is damaged"),
        (FLAC[:200] + bytes(100) + FLAC[300:], "FLAC file is damaged"),
        (of_length(FLAC, 10**10), r"takes 625000\.0 s"),
        (of_length(FLAC, 2 * RATE), "FLAC file is truncated: it has 16,000 samples of 32,000"),
        (encoded(tone(0.1, 500), "FLAC", rate=500), "FLAC file has a sampling rate of 500 Hz"),
        (encoded(tone(0.0), "OGG"), "empty"),
        (VORBIS[:10], "Ogg file is truncated: its last page is cut off"),
        (VORBIS[:-10], "Ogg file is truncated: its last page is cut off"),
        (OPUS[: OPUS.rindex(b"OggS")], "Ogg file is truncated: its last page is missing"),
        (VORBIS[:100] + b"?" + VORBIS[100:], "Ogg file is damaged: there is no page at byte"),
        (VORBIS + VORBIS, "Ogg file has 2 streams, expected 1"),
        (b"OggS\0\6" + bytes(21), "Ogg file is damaged"),
    ],
    # Streams of Ogg have random numbers, of which pytest would make names that differ from process to process.
    ids=[
        *(
            "empty",
            "of another kind",
            "endless tag",
            "cut tag",
            "FLAC of zeros",
            "half of a FLAC",
            "hole in a FLAC",
            "endless",
            "too short",
        ),
        *("slow", "no sound", "first page", "last page", "no last page", "byte too many", "twice", "head of a page"),
    ],
)
def test_what_is_no_whole_recording_is_rejected(data: bytes, says: str) -> None:
    with pytest.raises(RejectItem, match=says):
        read(data, None)


def test_formats_that_were_not_asked_for_are_rejected() -> None:
    for data in (FLAC, VORBIS):
        with pytest.raises(RejectItem, match="not a WAV file"):
            audio_preprocessor(RATE, 10.0)(data, None)


@given(st.sampled_from([FLAC, VORBIS, OPUS]), st.binary(max_size=60), st.floats(0, 1), st.booleans())
def test_damage_is_rejected_or_read_but_never_an_error(data: bytes, junk: bytes, share: float, ends: bool) -> None:
    place = 4 + int(share * (len(data) - 4))
    damaged = data[:place] + junk + (b"" if ends else data[place + len(junk) :])
    try:
        found = read(damaged, None)
    except RejectItem:
        return
    assert found.ndim == 1
