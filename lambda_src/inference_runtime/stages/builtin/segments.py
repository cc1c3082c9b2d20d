"""Turns a score for each window of a recording into the seconds between which someone speaks."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from inference_runtime.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

SECONDS = "seconds"
"""The name under which preprocessing keeps how long a recording is."""

_DIGITS = 3  # milliseconds
_WINDOWS = 1  # axes


def segments_postprocessor(
    window_seconds: float,
    threshold: float = 0.5,
    release: float = 0.35,
    min_seconds: float = 0.25,
    min_gap: float = 0.1,
    pad: float = 0.03,
    max_segments: int = 1_000,
    output: str | None = None,
) -> Callable[[Mapping[str, Array], Item], dict[str, Any]]:
    """Return a postprocessing function for a model that scores each window of a recording.

    It does what silero-vad does with its scores (https://github.com/snakers4/silero-vad, get_speech_timestamps).

    Parameters
    ----------
    window_seconds
        How far the windows are apart.
    threshold
        A segment begins with a score of at least this.
    release
        It ends with scores below this.
    min_seconds
        Shorter segments, before padding, are left out.
    min_gap
        It ends only if no score reaches the threshold for this many seconds.
    pad
        Seconds that a segment is extended by at both ends, or up to the middle of a shorter gap.
    max_segments
        How many segments the prediction lists at most.
    output
        The model's output that holds the scores; None for the only one.

    Returns
    -------
    Callable
        `postprocess(outputs, item)`, returning `segments`, a list of `start` and `end` in seconds, `count`, how many
        there are, and `seconds`, how long they are together. It needs the `seconds` that preprocessing kept.
    """

    def postprocess(outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:
        scores = outputs[output] if output is not None else next(iter(outputs.values()))
        if scores.size != len(scores):  # wrong options, not a wrong object
            raise RuntimeError(f"the model's output has shape {list(scores.shape)}, expected a score for each window")
        duration = item.kept.get(SECONDS)
        if isinstance(duration, bool) or not isinstance(duration, int | float):
            raise StageError(f"preprocess kept {dict(item.kept)!r:.200}, expected '{SECONDS}' with a number")
        spans = [
            (first * window_seconds, duration if last is None else min(last * window_seconds, duration))
            for first, last in _spans(scores.reshape(-1).tolist(), threshold, release, min_gap / window_seconds)
        ]
        found = _padded([(start, end) for start, end in spans if end - start > min_seconds], pad, duration)
        return {
            "segments": [
                {"start": round(start, _DIGITS), "end": round(end, _DIGITS)} for start, end in found[:max_segments]
            ],
            "count": len(found),
            "seconds": round(sum(end - start for start, end in found), _DIGITS),
        }

    return postprocess


def _spans(scores: Sequence[float], threshold: float, release: float, gap: float) -> Iterator[tuple[int, int | None]]:
    """Yield the first window of each span, and the one after its last; None for one that lasts to the end.

    Parameters
    ----------
    gap
        How many windows must pass after a span.
    """
    start = quiet = None
    for place, score in enumerate(scores):
        if score >= threshold:
            quiet = None
            if start is None:
                start = place
        elif score < release and start is not None:
            if quiet is None:
                quiet = place
            if place - quiet >= gap:
                yield start, quiet
                start = quiet = None
    if start is not None:
        yield start, None


def _padded(spans: Sequence[tuple[float, float]], pad: float, duration: float) -> list[tuple[float, float]]:
    """Return spans that are longer at both ends, but never overlap or leave the recording."""
    halves = [(after[0] - before[1]) / 2 for before, after in pairwise(spans)]
    around = pairwise([pad, *(min(pad, half) for half in halves), pad])
    return [
        (max(0.0, start - before), min(duration, end + after))
        for (start, end), (before, after) in zip(spans, around, strict=False)
    ]
