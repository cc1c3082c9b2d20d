"""Recordings become text on their rows, whatever their format."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import soundfile

if TYPE_CHECKING:
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

RECORDING = Path(__file__).parents[3] / "model_assets" / "spoken_digits" / "evaluation" / "00-5790.flac"
SAID = "five seven nine zero"


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
