"""The answers of two models to the same objects, as numbers to add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference_runtime.releases.agreement import disagreement, finite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference_runtime.tensors.tensor import Array

    Answers = Mapping[str, list[Array] | None]
    """Outputs by the id of the message; None for an object that was rejected, or made preprocessing fail."""


@dataclass(frozen=True)
class Comparison:
    """How to compare.

    Parameters
    ----------
    metric, min_confidence
        As those of `disagreement`.
    times
        A candidate that takes longer by this factor is slow.
    """

    metric: str
    min_confidence: float
    times: float

    def counts(
        self, stable: Answers, candidate: Answers | None, *, stable_ms: float, candidate_ms: float
    ) -> dict[str, float]:
        """Count what came out, by name.

        Parameters
        ----------
        stable, candidate
            The answers; None if the candidate did not survive the batch. That counts once, however many objects there
            are: one of them may have done it.
        stable_ms, candidate_ms
            How long each took for the batch, in milliseconds.

        Returns
        -------
        dict
            - `objects`: how many both were given.
            - `candidate_errors` and `stable_errors`: how many only one of them failed on.
            - `answered`: how many answers were compared.
            - `disagreement`: the sum over these.
            - `timed`: 1 if the batch tells which model is slower.
            - `slow`: 1 if it is the candidate.
        """
        counts: dict[str, float] = dict.fromkeys(
            ("objects", "candidate_errors", "stable_errors", "answered", "disagreement", "timed", "slow"), 0
        )
        if candidate is None:
            return counts | {"objects": 1, "candidate_errors": 1}
        for message in stable.keys() & candidate.keys():
            ours, theirs = stable[message], candidate[message]
            counts["objects"] += 1
            if ours is None or not finite(ours):
                counts["stable_errors"] += theirs is not None and finite(theirs)
            elif theirs is None:
                counts["candidate_errors"] += 1
            else:
                self._compare(ours, theirs, counts)
        if counts["answered"]:
            counts["timed"] = 1
            counts["slow"] = float(candidate_ms > self.times * stable_ms)
        return counts

    def _compare(self, ours: list[Array], theirs: list[Array], counts: dict[str, float]) -> None:
        if not finite(theirs):  # an error by itself, and no agreement either
            apart: float | None = 1.0
            counts["candidate_errors"] += 1
        else:
            apart = disagreement(ours, theirs, metric=self.metric, min_confidence=self.min_confidence)
        if apart is not None:
            counts["answered"] += 1
            counts["disagreement"] += apart


def answers_of(arm: Mapping[str, Any], outputs: Mapping[int, list[Array]]) -> dict[str, list[Array] | None]:
    """Return a model's answers by the id of the message; what has to be read again has none.

    Parameters
    ----------
    arm
        The answer of preprocessing: its `items`, and those that `failed`.
    outputs
        The model's outputs by index.
    """
    failed = dict.fromkeys((one["message_id"] for one in arm["failed"]), None)
    return failed | {item["message_id"]: outputs.get(index) for index, item in enumerate(arm["items"])}
