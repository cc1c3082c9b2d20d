"""Scores of windows become segments, within the recording and apart from each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.stages.builtin.test_audio import wav

from inference_runtime.errors import StageError
from inference_runtime.stages.builtin.audio import audio_preprocessor
from inference_runtime.stages.builtin.segments import segments_postprocessor
from inference_runtime.stages.item import Item

WINDOW = 0.1


def item(**kept: object) -> Item:
    return Item("id", "bucket", "key", None, "etag", 1, "00", "2026-01-01T00:00:00Z", "message", kept)


def segments(scores: list[float], seconds: float | None = None, **options: float) -> list[tuple[float, float]]:
    settings = {"min_seconds": 0.0, "min_gap": 0.0, "pad": 0.0, **options}
    duration = len(scores) * WINDOW if seconds is None else seconds
    answer = segments_postprocessor(WINDOW, **settings)({"scores": np.array(scores)}, item(seconds=duration))
    found = [(one["start"], one["end"]) for one in answer["segments"]]
    assert answer["count"] == len(found)
    assert answer["seconds"] == pytest.approx(sum(end - start for start, end in found), abs=0.002 * len(found))
    return found


def test_a_segment_begins_at_the_threshold_and_ends_below_the_release() -> None:
    assert segments([0.4, 0.5, 0.4, 0.36, 0.34, 0.4, 0.9]) == [(0.1, 0.4), (0.6, 0.7)]
    assert segments([0.4, 0.2, 0.49]) == []
    assert segments([]) == []


def test_short_gaps_are_bridged_and_short_segments_left_out() -> None:
    scores = [0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1]
    assert segments(scores) == [(0.0, 0.2), (0.3, 0.4), (0.7, 0.8)]
    assert segments(scores, min_gap=0.15) == [(0.0, 0.4), (0.7, 1.0)]  # the last gap is too short to end it
    assert segments(scores, min_gap=0.15, min_seconds=0.31) == [(0.0, 0.4)]


def test_padding_stays_within_the_recording_and_meets_in_the_middle_of_a_gap() -> None:
    scores = [0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9]
    assert segments(scores, pad=0.12) == [(0.0, 0.15), (0.15, 0.42), (0.48, 0.7)]


def test_silence_that_a_recording_was_filled_up_with_is_no_speech() -> None:
    sound = wav(np.ones((24_000, 1)) * 0.5, rate=16_000)
    kept = audio_preprocessor(16_000, 10, pad_to_multiple_of=1.0, measure="samples")(sound, item())
    assert isinstance(kept, dict)
    assert (kept["samples"].shape, kept["seconds"]) == ((32_000,), 1.5)
    assert segments([0.9] * 20, kept["seconds"], pad=0.1) == [(0.0, 1.5)]
    assert segments([0.1] * 15 + [0.9] * 5, kept["seconds"]) == []


@given(
    st.lists(st.floats(0, 1, width=32), max_size=40),
    st.floats(0.01, 1),
    st.tuples(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5)),
)
def test_segments_are_in_order_apart_and_hold_all_that_is_loud(
    scores: list[float], threshold: float, lengths: tuple[float, float, float]
) -> None:
    least, gap, pad = lengths
    options = {"threshold": threshold, "release": threshold / 2, "min_gap": gap, "pad": pad}
    edges = np.array(segments(scores, **options)).reshape(-1)
    assert (np.diff(edges) >= -1e-9).all()
    assert edges.size == 0 or (edges[0] >= 0 and edges[-1] <= len(scores) * WINDOW + 1e-9)
    middles = (np.flatnonzero(np.array(scores) >= threshold) + 0.5) * WINDOW
    inside = np.searchsorted(edges, middles) % 2 == 1
    assert inside.all()
    assert len(segments(scores, **options, min_seconds=least)) <= edges.size // 2


def test_a_row_lists_a_thousand_segments_and_counts_all() -> None:
    answer = segments_postprocessor(WINDOW, min_seconds=0, min_gap=0, pad=0)(
        {"scores": np.array([0.9, 0.1] * 1_500, np.float32)[:, None]}, item(seconds=300.0)
    )
    assert (len(answer["segments"]), answer["count"], answer["seconds"]) == (1_000, 1_500, 150.0)


def test_options_that_do_not_fit_fail() -> None:
    postprocess = segments_postprocessor(WINDOW)
    with pytest.raises(RuntimeError, match=r"shape \[3, 2\], expected a score for each window"):
        postprocess({"scores": np.zeros((3, 2), np.float32)}, item(seconds=1.0))
    with pytest.raises(StageError, match="expected 'seconds' with a number"):
        postprocess({"scores": np.zeros(3, np.float32)}, item())
