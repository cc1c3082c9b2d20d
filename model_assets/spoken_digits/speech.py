"""Speaks digits with eSpeak NG, and writes the recordings of the evaluation: `python speech.py`.

Debian has it as `espeak-ng`; version 1.51 spoke what is here. Nothing but training and this script needs it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soundfile
from factory import RATE

from inference_runtime.stages.builtin.audio import audio_preprocessor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-us-nyc", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbcwmd", "en-029")
VOICES = (
    *("m1", "m2", "m3", "m5", "m6", "m8", "f1", "f2", "f4", "f5", "Alex", "Andy", "Annie", "Denis", "Diogo", "Hugo"),
    *("Lee", "Mike", "adam", "anika", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "gustave"),
    *("iven", "john", "linda", "max", "michel", "paul", "pedro", "rob", "robert", "steph", "travis"),
)
UNHEARD_ACCENTS = (*ACCENTS, "en-gb-x-gbclan")
UNHEARD_VOICES = ("m4", "m7", "f3", "Alicia", "Andrea", "Jacky", "Marco", "Michael", "antonio", "miguel", "victor")
"""Those of the evaluation, which training never hears."""

MOST_DIGITS = 7

_read = audio_preprocessor(RATE, 30.0)


class Utterance(NamedTuple):
    """A recording, and the digits that are said in it."""

    samples: np.ndarray
    digits: str


def utterances(count: int, accents: Sequence[str], voices: Sequence[str], seed: int) -> Iterator[Utterance]:
    """Yield clean speech of one to seven digits, in any of some voices, slow and fast."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        digits = "".join(map(str, random.integers(0, 10, random.integers(1, MOST_DIGITS + 1))))
        # A comma makes a pause, as those do who read a number in groups.
        text = "".join(WORDS[int(digit)] + (", " if random.random() < 0.2 else " ") for digit in digits)  # noqa: PLR2004
        voice = f"{random.choice(accents)}+{random.choice(voices)}"
        speed, pitch = random.integers(110, 231), random.integers(20, 81)
        done = subprocess.run(  # noqa: S603 - numbers and names from here
            ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text],  # noqa: S607 - from Debian, wherever it is
            capture_output=True,
            check=True,
        )
        samples = _read(done.stdout, None)
        loud = np.flatnonzero(np.abs(samples) > 0.01)  # noqa: PLR2004 - it begins and ends with silence
        yield Utterance(samples[loud[0] : loud[-1] + 1], digits)


def recorded(samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return speech as a telephone would have it: with silence around, noise, and loud or soft."""
    before, after = random.integers(RATE // 20, RATE // 2, 2)
    sound = np.pad(samples / np.sqrt(np.mean(samples**2)), (before, after))
    # From white to nearly brown: each sample keeps some of the one before.
    spectrum = np.fft.rfft(random.normal(size=len(sound)))
    spectrum /= np.maximum(np.linspace(0, 1, len(spectrum)), 0.01) ** random.uniform(0, 1)
    noise = np.fft.irfft(spectrum, len(sound))
    sound += noise / noise.std() * 10 ** (-random.uniform(8, 40) / 20)
    return (sound / np.abs(sound).max() * 10 ** (-random.uniform(1, 20) / 20)).astype(np.float32)


def write(folder: Path, count: int, accents: Sequence[str], voices: Sequence[str], seed: int) -> None:
    """Write recordings as FLAC; a name has the number of the recording and its digits."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for number, (samples, digits) in enumerate(utterances(count, accents, voices, seed)):
        soundfile.write(folder / f"{number:02}-{digits}.flac", recorded(samples, random), RATE, compression_level=1.0)


if __name__ == "__main__":
    here = Path(__file__).parent
    write(here / "evaluation", 60, UNHEARD_ACCENTS, UNHEARD_VOICES, 1)
    write(here / "calibration", 16, ACCENTS, VOICES, 2)
