"""Metrics of texts are what their definitions say, written out."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import Evaluation
from cdk_inference.model.building.evaluation.data import Samples
from cdk_inference.model.building.evaluation.metrics import Judge
from cdk_inference.model.building.evaluation.texts import bleu, edits, texts_of
from inference_runtime.stages.builtin.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

VOCABULARY = Vocabulary(["<pad>", "<s>", "</s>", "▁the", "▁cat", "s", "▁sat", "▁"])
WORDS = st.lists(st.sampled_from("abc"), max_size=6)


def tokens(*rows: Sequence[int]) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([[*row, *[2] * (width - len(row))] for row in rows], np.int64)


def score(metric: str, outputs: list[np.ndarray], labels: object, reference: list[np.ndarray] | None = None) -> float:
    evaluation = Evaluation("data.py:evaluation", metric, vocabulary="v.txt")
    count = len(outputs[0])
    samples = Samples([{"x": np.zeros((count, 1))}], [labels], [None])
    judge = Judge(evaluation, samples, [reference or outputs], (), None, VOCABULARY)
    value, samples_of = judge.score([outputs])
    assert samples_of == count
    return value


def test_rates_are_edits_over_what_was_wanted() -> None:
    outputs = [tokens([3, 4, 6], [3, 4, 5, 6])]  # the cat sat, the cats sat
    labels = ["the cat sat", "a cat sat down"]
    assert score("exact_match", outputs, labels) == 0.5
    assert score("word_error_rate", outputs, labels) == pytest.approx(3 / 7)
    assert score("character_error_rate", outputs, labels) == pytest.approx((3 + 1 + 5) / (11 + 14))


def test_without_labels_the_float_model_says_what_is_wanted() -> None:
    outputs, floats = [tokens([3, 4], [3, 4, 5])], [tokens([3, 4], [3, 4])]
    with pytest.raises(ModelBuildError, match="got 'the cat' alone, so that a model that always gives it would pass"):
        score("word_error_rate", outputs, None, floats)
    assert score("word_error_rate", outputs, None, [tokens([3, 4, 5], [3])]) == pytest.approx(2 / 3)


def test_frames_give_their_best_tokens_without_blanks_and_repetitions() -> None:
    frames = np.array([[3, 3, 0, 3, 4, 4, 5, 0], [0, 0, 0, 0, 6, 6, 6, 6]])
    scores = np.eye(8, dtype=np.float32)[frames]
    for outputs in ([scores], [frames], [np.zeros((2, 1), np.float32), scores]):
        assert texts_of([outputs], (), VOCABULARY, 0) == ["the the cats", "sat"]


def test_what_follows_the_length_of_a_decoder_does_not_count() -> None:
    said = np.array([[3, 4, 5, 5, 5], [5, 5, 5, 5, 5]])  # a vocabulary may end with any token
    names = ["scores", "tokens", "lengths"]
    outputs = [np.zeros(2, np.float32), said, np.array([3, 0])]
    assert texts_of([outputs], names, VOCABULARY, None) == ["the cats", ""]
    outputs[2] = np.array([0.6, 0.0], np.float32)  # a share of places
    assert texts_of([outputs], names, VOCABULARY, None) == ["the catsss", "sssss"]


@pytest.mark.parametrize(
    ("outputs", "labels", "says"),
    [
        ([tokens([3], [4])], [1, 2], "needs labels that are strings, got int"),
        (
            [np.zeros((2, 3), np.float32)],
            ["a", "b"],
            r"a metric of texts, got float32 \(2, 3\)",
        ),
        ([tokens([3], [9])], ["a", "b"], "the vocabulary must have every token of the model, got 8 tokens"),
        ([tokens([3], [-1])], ["a", "b"], "the vocabulary must have every token of the model"),
        ([tokens([3], [4])], ["", ""], "two or more texts"),
        ([tokens([3], [4])], ["", " "], "labels that are not empty"),
    ],
)
def test_what_cannot_be_compared_fails(outputs: list[np.ndarray], labels: object, says: str) -> None:
    with pytest.raises(ModelBuildError, match=says):
        score("word_error_rate", outputs, labels)


@given(WORDS, WORDS)
def test_edits_are_those_of_the_recursive_definition(one: list[str], other: list[str]) -> None:
    @cache
    def least(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, least(i - 1, j - 1) + (one[i - 1] != other[j - 1]))

    assert edits(one, other) == least(len(one), len(other)) == edits(other, one)


def test_bleu_is_that_of_its_authors_formula() -> None:
    found, wanted = ["the cat sat on the mat today", "it is a guide"], ["the cat sat on a mat", "it is a guide to it"]
    precisions = [(5 + 4) / 11, (3 + 3) / 9, (2 + 2) / 7, (1 + 1) / 5]
    expected = math.exp(1 - 12 / 11) * math.prod(precisions) ** 0.25
    assert bleu(found, wanted) == pytest.approx(expected)
    assert (bleu(wanted, wanted), bleu(["a b c"], ["a b c"])) == (1.0, 0.0)
    assert bleu(["the the the the the"], ["the cat the cat the cat"]) == 0.0
