"""Speaks sentences of ../minilm with eSpeak NG, and writes the recordings: `python speech.py`.

Debian has it as `espeak-ng`; version 1.51 spoke what is here. Nothing but this script needs it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import soundfile

from inference_runtime.stages.builtin.audio import audio_preprocessor

RATE = 16_000  # Hz
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-us+f2", "en-gb+m3", "en-us+m7", "en-gb-x-rp+f3", "en-us+Alicia")
WORDS_PER_MINUTE = 150
COUNT = 24
FOLDERS = {"evaluation": 0, "unseen": 2}
"""Each takes every fourth sentence, beginning with this one."""

_read = audio_preprocessor(RATE, 30.0)


def write(folder: Path, sentences: list[str]) -> None:
    """Write recordings as Opus, and what is said in them, a line each."""
    folder.mkdir(exist_ok=True)
    for number, sentence in enumerate(sentences):
        voice = VOICES[number % len(VOICES)]
        spoken = subprocess.run(  # noqa: S603 - sentences and names from here
            ["espeak-ng", "-v", voice, "-s", str(WORDS_PER_MINUTE), "--stdout", sentence],  # noqa: S607 - from Debian, wherever it is
            capture_output=True,
            check=True,
        )
        soundfile.write(folder / f"{number:02}.ogg", _read(spoken.stdout, None), RATE, format="OGG", subtype="OPUS")
    (folder / "sentences.txt").write_text("".join(f"{sentence}\n" for sentence in sentences), "utf-8")


if __name__ == "__main__":
    here = Path(__file__).parent
    known = [line for line in (here.parent / "minilm" / "sentences.txt").read_text("utf-8").splitlines() if line]
    for name, first in FOLDERS.items():
        write(here / name, known[first::4][:COUNT])
