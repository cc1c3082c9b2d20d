"""The samples of a recording, and how much of it is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from inference_runtime.errors import RejectItem

if TYPE_CHECKING:
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sampling rates in Hz that are read."""

MOST_CHANNELS = 32


class Sound(NamedTuple):
    """Samples of one channel, float32, and how many there are in a second."""

    samples: Samples
    rate: int


class Longest(NamedTuple):
    """The longest recording that is read whole.

    Parameters
    ----------
    seconds
        The duration.
    too_long
        Whether longer ones are rejected, or cut.
    """

    seconds: float
    too_long: Literal["truncate", "reject"]

    def frames(self, count: int, rate: int) -> int:
        """Return how many frames of a recording are read.

        Parameters
        ----------
        count
            How many it has.
        rate
            In Hz.

        Raises
        ------
        RejectItem
            If it is empty, or too long.
        """
        if count == 0:
            raise RejectItem("the recording is empty")
        if count <= self.seconds * rate:
            return count
        if self.too_long == "reject":
            raise RejectItem(f"the recording takes {count / rate:.1f} s, and {self.seconds:g} s at most are read")
        return self.most(rate)

    def most(self, rate: int) -> int:
        """Return how many frames are read at most."""
        return math.ceil(self.seconds * rate)


def check_format(kind: str, channels: int, rate: int) -> None:
    """Reject a recording with more channels than any has, or a sampling rate that none has.

    Raises
    ------
    RejectItem
        With the kind of the file, and its value.
    """
    if not 1 <= channels <= MOST_CHANNELS:
        raise RejectItem(f"{kind} file has {channels} channels, expected 1 to {MOST_CHANNELS}")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise RejectItem(f"{kind} file has a sampling rate of {rate:,} Hz")


def check_finite(samples: Samples) -> None:
    """Reject samples that are not numbers.

    Raises
    ------
    RejectItem
        If one is NaN or infinite.
    """
    if not np.isfinite(samples).all():
        raise RejectItem("the recording has samples that are not numbers")
