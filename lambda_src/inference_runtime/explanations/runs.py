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
    ) -> None:
        self._infer, self._output, self._parts, self._target = infer, output, parts, target
        self._clock, self._begin = clock, clock()
        self._end = self._begin + seconds
        self.done = 0

    def affordable(self) -> float:
        """Return how many more runs fit into the time, as fast as those before; infinite if nothing limits them."""
        left = self._end - self._clock()
        if math.isinf(left):
            return left
        spent = self._clock() - self._begin
        return max(0.0, left) / (spent / self.done) if self.done and spent > 0 else math.inf

    def some(self, coalitions: Sequence[int]) -> list[float]:
        """Return the scores of the first coalitions, as many as there is time for.

        Raises
        ------
        NotFiniteError
            If a score is not a finite number.
        """
        found: list[float] = []
        while len(found) < len(coalitions) and self._clock() < self._end:
            chunk = coalitions[len(found) : len(found) + CHUNK]
            scores = self._target.scores(self._infer(self._parts.hidden(chunk))[self._output])
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
            If there is too little time.
        NotFiniteError
            As `some` does.
        """
        if self.affordable() < len(coalitions) or len(found := self.some(coalitions)) < len(coalitions):
            raise OutOfTimeError(f"{len(coalitions)} runs of the model do not fit into the time")
        return found
