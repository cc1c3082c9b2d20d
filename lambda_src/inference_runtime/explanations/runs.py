"""Runs of the model on an item of which parts are hidden, as long as there is time."""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inference_runtime.explanations.interfaces import Parts, Target
    from inference_runtime.tensors.tensor import Tensor

CHUNK = 16
"""Most items of one call: the most that a CPU runs at once, so that the time is looked at after each run."""


EAGER = 4
"""Times that runs in a chunk may be faster than a single one: as long as there was no chunk, that is hoped for."""


class OutOfTimeError(Exception):
    """The time does not suffice for what a method needs."""


class NotFiniteError(Exception):
    """The model answers with what is not a number, or infinite."""


class Runs:
    """Scores coalitions of hidden parts with the model.

    Parameters
    ----------
    infer
        Runs the model: takes inputs by name, and returns outputs by name.
    output
        The name of the output that is explained.
    parts
        The parts of the item.
    target
        The number that is explained.
    seconds
        How long the runs may take; infinite for no limit.
    clock
        Returns the time in seconds.
    expected
        How long the first run may take, in seconds; 0 if that is unknown.

    Attributes
    ----------
    done
        How many runs there were, of one item each.
    """

    def __init__(
        self,
        infer: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
        output: str,
        parts: Parts,
        target: Target,
        *,
        seconds: float,
        clock: Callable[[], float],
        expected: float = 0.0,
    ) -> None:
        self._infer, self._output, self._parts, self._target = infer, output, parts, target
        self._clock, self._end = clock, clock() + seconds
        self._pace = expected  # seconds of each of the last runs
        self.done = 0

    def affordable(self) -> float:
        """Return how many more runs may fit, by how long the last ones took; infinite if that is unknown."""
        left = max(0.0, self._end - self._clock())
        if not self._pace:
            return math.inf if left else 0.0
        return left / self._pace * (EAGER if 0 < self.done < CHUNK else 1)

    def some(self, coalitions: Sequence[int]) -> list[float]:
        """Return the scores of the first coalitions, as many as there is time for.

        No chunk is begun that would take longer than there is time, if its runs were as slow as the last ones.

        Raises
        ------
        NotFiniteError
            If a score is not a finite number.
        """
        found: list[float] = []
        while len(found) < len(coalitions) and (now := self._clock()) < self._end:
            most = int(min(CHUNK, (self._end - now) / self._pace)) if self._pace else CHUNK
            if not most:
                break
            chunk = coalitions[len(found) : len(found) + most]
            scores = self._target.scores(self._infer(self._parts.hidden(chunk))[self._output])
            self._pace = (self._clock() - now) / len(chunk)
            self.done += len(chunk)
            if bad := sum(not math.isfinite(score) for score in scores):
                raise NotFiniteError(f"the model answers NaN or infinite to {bad} of {len(chunk)} inputs")
            found += scores
        return found

    def all(self, coalitions: Sequence[int]) -> list[float]:
        """Return the scores of all coalitions.

        Raises
        ------
        OutOfTimeError
            If there is too little time, as soon as that shows.
        NotFiniteError
            As `some` does.
        """
        found: list[float] = []
        while (left := len(coalitions) - len(found)) > 0:
            if self.affordable() < left or not (scores := self.some(coalitions[len(found) : len(found) + CHUNK])):
                raise OutOfTimeError(f"{len(coalitions)} runs of the model do not fit into the time")
            found += scores
        return found
