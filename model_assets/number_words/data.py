"""Whole numbers below a million, as digits and as English words: made here, without a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGITS = 6
EMPTY = 10
"""Stands before the first digit of a shorter number."""

MOST_WORDS = 12
PAD, START, END = 0, 1, 2
SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = (*SMALL, *TENS, "hundred", "thousand")
TOKENS = {word: token for token, word in enumerate(WORDS, 3)}
"""As vocabulary.txt has them."""

SAMPLES, BATCH = 480, 40
_PARTS = 10
_EVALUATION, _CALIBRATION = 0, 1  # the other parts are for training
_MULTIPLIER = 2654435761  # Knuth, The Art of Computer Programming, volume 3, section 6.4: it scatters numbers


def words(number: int) -> list[str]:
    """Return a number below a million in words."""
    thousands, rest = divmod(number, 1000)
    found = [*_hundreds(thousands), "thousand"] if thousands else []
    return [*found, *_hundreds(rest)] or ["zero"]


def _hundreds(number: int) -> list[str]:
    hundreds, rest = divmod(number, 100)
    found = [SMALL[hundreds], "hundred"] if hundreds else []
    if rest >= len(SMALL):
        tens, ones = divmod(rest, 10)
        return [*found, TENS[tens - 2], *([SMALL[ones]] if ones else [])]
    return [*found, SMALL[rest]] if rest else found


def digits(numbers: np.ndarray) -> np.ndarray:
    """Return numbers as digits, right-aligned, int64 of shape (numbers, 6)."""
    powers = 10 ** np.arange(DIGITS)[::-1]
    found = numbers[:, None] // powers % 10
    leading = (numbers[:, None] < powers) & (powers > 1)
    return np.where(leading, EMPTY, found).astype(np.int64)


def draw(parts: set[int], count: int, seed: int) -> np.ndarray:
    """Return numbers of some of ten parts, about as many of each length."""
    random = np.random.default_rng(seed)
    numbers = np.floor(10 ** random.uniform(0, DIGITS, 20 * count)).astype(np.int64) - 1  # 0 too
    return numbers[np.isin(((numbers + 1) * _MULTIPLIER >> 16) % _PARTS, [*parts])][:count]


def training(count: int) -> np.ndarray:
    """Return numbers of the parts for training."""
    return draw({*range(_PARTS)} - {_EVALUATION, _CALIBRATION}, count, 0)


def _batches(part: int, seed: int) -> Iterator[np.ndarray]:
    numbers = draw({part}, SAMPLES, seed)
    yield from np.split(numbers, SAMPLES // BATCH)


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Yield digits of numbers of another part than those for the evaluation."""
    for numbers in _batches(_CALIBRATION, 1):
        yield {"digits": digits(numbers)}


def evaluation() -> Iterator[tuple[dict[str, np.ndarray], list[str], list[str]]]:
    """Yield digits of numbers that training has not seen, with their words."""
    for numbers in _batches(_EVALUATION, 2):
        yield {"digits": digits(numbers)}, [" ".join(words(number)) for number in numbers], [*map(str, numbers)]
