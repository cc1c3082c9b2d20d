"""Tokens become text: of a decoder as they are, of a recognizer without blanks and repetitions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.errors import StageError
from inference_runtime.stages.builtin.transcript import transcript_postprocessor
from inference_runtime.stages.builtin.vocabulary import Vocabulary, collapsed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKENS = ["<pad>", "<s>", "</s>", "▁the", "▁cat", "s", "<", "<>", "\u2028"]


@pytest.fixture
def postprocess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    (tmp_path / "vocabulary.txt").write_text("\n".join(TOKENS) + "\n", "utf-8")
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))

    def postprocess(values: np.ndarray, *, blank: int | None = None, **more: np.ndarray) -> Any:
        run = transcript_postprocessor("vocabulary.txt", "tokens", blank)
        return run({"tokens": values, **more}, SimpleNamespace(kept={}))  # type: ignore[arg-type]

    return postprocess


def test_tokens_are_text_and_the_score_comes_along(postprocess: Callable[..., Any]) -> None:
    tokens = np.array([3, 4, 5, 6, 7, 2, 2], np.int64)
    assert postprocess(tokens) == {"text": "the cats<<>"}
    assert postprocess(tokens, scores=np.array(-0.5, np.float32)) == {"text": "the cats<<>", "score": -0.5}
    assert postprocess(np.array([8, 3, 8, 4], np.int32))["text"] == "the\u2028 cat"  # which no line ends with


def test_what_follows_the_length_of_a_decoder_does_not_count(postprocess: Callable[..., Any]) -> None:
    tokens, length = np.array([3, 4, 5, 5, 5], np.int64), np.array(3, np.int64)  # a vocabulary may end with any token
    assert postprocess(tokens, lengths=length) == {"text": "the cats"}
    assert postprocess(tokens, lengths=np.array(0, np.int32)) == {"text": ""}
    assert postprocess(tokens, lengths=np.array(0.6, np.float32)) == {"text": "the catsss"}  # a share of places
    assert postprocess(tokens, lengths=length, blank=0) == {"text": "the cats"}


def test_frames_are_text_by_scores_or_by_their_best_tokens(postprocess: Callable[..., Any]) -> None:
    frames = np.array([0, 3, 3, 0, 3, 4, 0, 0, 5, 5, 0])
    for values in (frames, np.eye(len(TOKENS), dtype=np.float32)[frames]):
        assert postprocess(values, blank=0) == {"text": "the the cats"}


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 3))
def test_collapsing_is_that_of_the_definition(frames: list[int], blank: int) -> None:
    runs = [one for place, one in enumerate(frames) if place == 0 or one != frames[place - 1]]
    assert collapsed(frames, blank) == [one for one in runs if one != blank]


@pytest.mark.parametrize("values", [np.zeros((2, 9), np.float32), np.zeros(3, np.float32), np.zeros((2, 2, 9), int)])
def test_an_output_without_a_token_at_each_place_fails(postprocess: Callable[..., Any], values: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match="expected a token at each place"):
        postprocess(values)


def test_a_token_that_the_vocabulary_lacks_fails() -> None:
    for tokens in ([9], [-1]):
        with pytest.raises(StageError, match="the vocabulary must have every token of the model, got 9 tokens"):
            Vocabulary(TOKENS).text(tokens)
