"""Where the pixels that a model saw are in the picture of an object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

PICTURE = "picture"
"""The name under which preprocessing keeps it for postprocessing and the row."""

_DIGITS = 3  # of a pixel


@dataclass(frozen=True)
class Picture:
    """A picture, upright as people see it, and the part of it that the model saw.

    Attributes
    ----------
    width, height
        Size of the picture in pixels.
    input
        Width and height of what the model takes, in pixels.
    region
        Left, top, right and bottom edge of what the model saw, in pixels of the picture. With borders, which the
        picture does not have, it extends beyond the picture.
    """

    width: int
    height: int
    input: tuple[int, int]
    region: tuple[float, ...]

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Picture:
        """Read what preprocessing kept.

        Raises
        ------
        StageError
            If it is not a picture; the function is at fault.
        """
        try:
            found = kept[PICTURE]
            picture = cls(
                int(found["width"]),
                int(found["height"]),
                tuple(int(side) for side in found["input"]),  # type: ignore[arg-type]
                tuple(float(edge) for edge in found["region"]),
            )
            left, top, right, bottom = picture.region
            width, height = picture.input
        except (KeyError, TypeError, ValueError) as error:
            raise StageError(
                f"preprocess kept {dict(kept)!r:.200}, expected {PICTURE!r} with width, height, input and region: "
                f"{type(error).__name__}: {error}"
            ) from error
        if min(picture.width, picture.height, width, height) < 1 or not (right > left and bottom > top):
            raise StageError(f"preprocess kept {found!r:.200}, expected sizes of at least 1 pixel")
        return picture

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, the edges rounded to thousandths of a pixel."""
        return {
            "width": self.width,
            "height": self.height,
            "input": list(self.input),
            "region": [round(edge, _DIGITS) for edge in self.region],
        }

    def turned(self) -> Picture:
        """Return it with width and height exchanged."""
        left, top, right, bottom = self.region
        return replace(
            self,
            width=self.height,
            height=self.width,
            input=self.input[::-1],
            region=(top, left, bottom, right),
        )

    def place(self, boxes: npt.NDArray[np.float64], *, normalized: bool) -> npt.NDArray[np.float64]:
        """Return boxes in pixels of the picture, cut at its edges.

        Parameters
        ----------
        boxes
            (n, 4), each (left, top, right, bottom): in pixels of the model's input, or as fractions of its sides.
        normalized
            Whether they are fractions.
        """
        left, top, right, bottom = self.region
        sides = (1, 1) if normalized else self.input
        scale = np.array([(right - left) / sides[0], (bottom - top) / sides[1]] * 2)
        placed = boxes * scale + np.array([left, top] * 2)
        return np.asarray(placed.clip(0, np.array([self.width, self.height] * 2)))

    def places(self, count: int, *, axis: int) -> npt.NDArray[np.intp]:
        """Return for each pixel of a side of the picture which of the model's is there, -1 where it saw none.

        Parameters
        ----------
        count
            How many pixels the model's output has on this side.
        axis
            0 for the width, 1 for the height.
        """
        low, high = self.region[axis], self.region[axis + 2]
        middles = np.arange((self.width, self.height)[axis]) + 0.5
        found = np.floor((middles - low) / (high - low) * count)
        return np.where((found >= 0) & (found < count), found, -1).astype(np.intp)
