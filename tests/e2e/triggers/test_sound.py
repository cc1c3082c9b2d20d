"""Recordings become text on their rows, whatever their format."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from cdk_inference.model.building.evaluation.texts import word_error_rate

if TYPE_CHECKING:
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

RECORDINGS = Path(__file__).parents[3] / "model_assets" / "spoken_digits" / "evaluation"
RECORDING = RECORDINGS / "00-5790.flac"
SAID = "five seven nine zero"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def test_flac_ogg_and_wav_become_text(calls: Watched) -> None:
    samples, rate = soundfile.read(RECORDING)
    objects = {"call.flac": RECORDING.read_bytes(), "cut off.flac": RECORDING.read_bytes()[:9_000], "none.wav": b"RIFF"}
    for kind, subtype in (("wav", "PCM_24"), ("ogg", "VORBIS"), ("opus", "OPUS")):
        file = io.BytesIO()
        soundfile.write(file, samples, rate, subtype, format="WAV" if kind == "wav" else "OGG")
        objects[f"call.{kind}"] = file.getvalue()
    for key, data in objects.items():
        calls.put(key, data)
    ends = calls.ends(objects)
    good = {key for key in objects if key.startswith("call")}
    assert {key for key, end in ends.items() if end == "SUCCEEDED"} == good
    assert {key for key, end in ends.items() if end == "REJECTED"} == objects.keys() - good
    assert {calls.row(key)["prediction"]["text"] for key in good} == {SAID}
    assert "FLAC file is damaged" in calls.row("cut off.flac")["reason"]


def test_an_encoder_and_a_decoder_write_down_what_is_said(dictation: Watched) -> None:
    recordings = sorted(RECORDINGS.glob("*.flac"))[:20]
    for recording in recordings:
        dictation.put(recording.name, recording.read_bytes())
    dictation.put("silence.wav", b"RIFF")
    names = [recording.name for recording in recordings]
    assert dictation.ends([*names, "silence.wav"]) == dict.fromkeys(names, "SUCCEEDED") | {"silence.wav": "REJECTED"}
    rows = {name: dictation.row(name)["prediction"] for name in names}
    spoken = [" ".join(WORDS[int(digit)] for digit in name.removesuffix(".flac").partition("-")[2]) for name in names]
    assert word_error_rate([rows[name]["text"].strip() for name in names], spoken) <= 0.05  # as the recipe demands
    assert rows[RECORDING.name]["text"].strip() == SAID
    assert all(row["score"] < 0 for row in rows.values())


def test_a_state_is_carried_through_a_recording_to_find_who_speaks(voices: Watched) -> None:
    random = np.random.default_rng(0)
    seconds = ((1.0, 0.0), (1.5, 0.3), (1.0, 0.0), (0.8, 0.1), (0.5, 0.0))  # how long, and how loud
    samples = np.concatenate([loud * random.normal(size=round(8_000 * long)) for long, loud in seconds])
    files = {"speech.wav": samples.clip(-1, 1), "silence.wav": np.zeros(8_000)}
    for key, sound in files.items():
        file = io.BytesIO()
        soundfile.write(file, sound, 8_000, "PCM_16", format="WAV")
        voices.put(key, file.getvalue())
    assert voices.ends(files) == dict.fromkeys(files, "SUCCEEDED")
    assert voices.row("silence.wav")["prediction"] == {"segments": [], "count": 0, "seconds": 0}
    found = voices.row("speech.wav")["prediction"]["segments"]
    limits = [float(each[end]) for each in found for end in ("start", "end")]
    assert limits == pytest.approx([1.0, 2.5, 3.5, 4.3], abs=0.25)  # it does not forget at once
