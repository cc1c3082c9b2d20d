"""Sounds that are made by rule: voices of formants, chords and brain waves."""

from __future__ import annotations

import numpy as np

VOWELS = {
    "a": (730, 1090, 2440),
    "i": (270, 2290, 3010),
    "u": (300, 870, 2240),
    "e": (530, 1840, 2480),
    "o": (570, 840, 2410),
}
"""Formants in Hz (Peterson and Barney, 1952, https://doi.org/10.1121/1.1906875)."""


def voice(random: np.random.Generator, seconds: float, rate: int, pitch: float, tract: float = 1.0) -> np.ndarray:
    """Return syllables of a voice: pulses of a pitch through the resonances of vowels, with noise between them.

    Parameters
    ----------
    pitch
        In Hz.
    tract
        Factor of the formants: the shorter a speaker's vocal tract, the higher.
    """
    sound = np.zeros(int(seconds * rate), np.float32)
    start = 0
    while start < len(sound):
        length = min(int(rate * random.uniform(0.12, 0.28)), len(sound) - start)
        time = np.arange(length) / rate
        glide = pitch * (1 + 0.1 * random.normal()) * (1 + 0.08 * np.sin(2 * np.pi * 4 * time + random.uniform(0, 6)))
        phase = 2 * np.pi * np.cumsum(glide) / rate
        formants = [f * tract for f in VOWELS[random.choice(sorted(VOWELS))]]
        syllable = np.zeros(length)
        for harmonic in range(1, int(min(rate / 2, 4000) / pitch)):
            frequency = harmonic * pitch
            gain = sum(1 / (1 + ((frequency - f) / (60 + 0.05 * f)) ** 2) for f in formants) / harmonic**0.3
            syllable += gain * np.sin(harmonic * phase)
        syllable += 0.02 * random.normal(size=length)
        sound[start : start + length] = syllable * np.sin(np.pi * np.arange(length) / max(length, 1)) ** 0.5
        start += length + int(rate * random.uniform(0.01, 0.07))
    return (0.3 * sound / max(1e-6, float(np.abs(sound).max()))).astype(np.float32)


def conversation(random: np.random.Generator, rate: int = 16000) -> np.ndarray:
    """Return speech and pauses with a hum and noise in turn."""
    parts = []
    for _ in range(4):
        parts.append(voice(random, random.uniform(0.6, 1.4), rate, random.uniform(90, 230), random.uniform(0.9, 1.2)))
        pause = int(rate * random.uniform(0.4, 1.0))
        parts.append(0.02 * np.sin(2 * np.pi * 50 * np.arange(pause) / rate))
    sound = np.concatenate(parts)
    return (sound + random.uniform(0.001, 0.01) * random.normal(size=len(sound))).astype(np.float32)


def chord(random: np.random.Generator, length: int, rate: int) -> np.ndarray:
    """Return plucked notes, one after the other and together."""
    sound = np.zeros(length)
    for _ in range(random.integers(3, 7)):
        note = random.integers(40, 84)
        start = random.integers(0, length * 2 // 3)
        time = np.arange(length - start) / rate
        for harmonic in range(1, 7):
            frequency = harmonic * 440 * 2 ** ((note - 69) / 12)
            sound[start:] += np.sin(2 * np.pi * frequency * time) * np.exp(-3 * time * harmonic**0.5) / harmonic**1.2
    return (0.5 * sound / np.abs(sound).max() + 0.001 * random.normal(size=length)).astype(np.float32)


def mel(sound: np.ndarray, rate: int = 16000, bands: int = 40, window: int = 400, hop: int = 160) -> np.ndarray:
    """Return the decimal logarithm of the energy in mel bands, (frames, bands)."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[::hop] * np.hamming(window)
    power = np.abs(np.fft.rfft(frames, 512)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 1400), bands + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(512, 1 / rate)
    low, middle, high = (edges[i : i + bands, None] for i in range(3))
    filters = np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)
    return np.log10(power @ filters.T + 1e-10).astype(np.float32)


def brain(random: np.random.Generator, length: int, rate: float) -> np.ndarray:
    """Return a sleeping brain's waves in microvolts: 1/f noise, with spindles of 11 to 15 Hz."""
    spectrum = np.fft.rfft(random.normal(size=length))
    frequencies = np.fft.rfftfreq(length, 1 / rate)
    waves = np.fft.irfft(spectrum / np.maximum(frequencies, 0.5), length)
    waves *= 25 / waves.std()
    for _ in range(random.integers(3, 7)):
        duration = random.uniform(0.6, 1.5)
        count = int(duration * rate)
        start = random.integers(0, length - count)
        time = np.arange(count) / rate
        spindle = np.sin(2 * np.pi * random.uniform(11.5, 14.5) * time + random.uniform(0, 6)) * np.hanning(count)
        waves[start : start + count] += random.uniform(20, 45) * spindle
    return waves.astype(np.float32)


def slaney(sound: np.ndarray, rate: int, bands: int, window: int = 400, hop: int = 160) -> np.ndarray:
    """Return the energy in mel bands of equal area, (frames, bands), as librosa computes it by default."""
    sound = np.pad(sound, window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[::hop] * np.hanning(window + 1)[:-1]
    power = np.abs(np.fft.rfft(frames)) ** 2
    top = 15 + 27 * np.log(rate / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, bands + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    bins = np.fft.rfftfreq(window, 1 / rate)
    low, middle, high = (edges[i : i + bands, None] for i in range(3))
    filters = np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)
    return (power @ (filters * 2 / (high - low)).T).astype(np.float32)
