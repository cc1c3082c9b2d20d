"""Texts of outputs, and how like they are to others."""

from __future__ import annotations

from collections import Counter
from math import exp, log
from typing import TYPE_CHECKING

import numpy as np

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.recipe.drivers import Search
from cdk_inference.model.recipe.graphs import Graphs
from inference_runtime.errors import StageError
from inference_runtime.stages.builtin.vocabulary import LENGTHS, collapsed, read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cdk_inference.model.building.evaluation.metrics import Array, Outputs
    from cdk_inference.model.recipe.recipe import ModelRecipe
    from inference_runtime.stages.builtin.vocabulary import Tokens

LONGEST = 4
"""Words in a row that BLEU counts, at most."""

_TOKENS, _SCORES = 2, 3  # axes: samples, places, and the vocabulary


def texts_of(outputs: Outputs, names: Sequence[str], vocabulary: Tokens, blank: int | None) -> list[str]:
    """Return the text of each sample.

    Parameters
    ----------
    outputs
        Those of each batch.
    names
        The names of the outputs. Without a blank, tokens after those that `lengths` counts are left out.
    vocabulary
        Knows the tokens.
    blank
        The token that stands for none, of a recognizer that gives one for each frame.

    Raises
    ------
    ModelBuildError
        If no output has tokens, or the vocabulary lacks one.
    """
    try:
        if blank is not None:
            return [
                vocabulary.text(collapsed(row, blank))
                for batch in outputs
                for row in _tokens(batch, of_frames=True).tolist()
            ]
        return [vocabulary.text(row) for batch in outputs for row in _counted(batch, names)]
    except StageError as error:
        raise ModelBuildError(f"evaluation.vocabulary must have a line for each token of the model: {error}") from error


def read_tokens(file: Path) -> Tokens:
    """Return the tokens of an evaluation: those of a file of lines, or of a ``tokenizer.json``.

    Raises
    ------
    ModelBuildError
        If it is the file of a tokenizer that is neither byte-level nor SentencePiece's.
    """
    try:
        return read_vocabulary(str(file))
    except (StageError, ValueError) as error:
        raise ModelBuildError(f"evaluation.vocabulary must be a file of tokens, got '{file.name}': {error}") from None


def check_end(recipe: ModelRecipe, vocabulary: Tokens) -> None:
    """Refuse a decoder whose texts would repeat the end token, which it fills its tokens up with.

    Raises
    ------
    ModelBuildError
        If the end token is text, and the model does not say how many tokens count.
    """
    driver = recipe.source.driver if isinstance(recipe.source, Graphs) else None
    if not isinstance(driver, Search) or LENGTHS in [spec.name for spec in recipe.outputs]:
        return
    end = driver.ends[0]
    if end < len(vocabulary) and (text := vocabulary.text([end])):
        raise ModelBuildError(
            f"outputs must have '{LENGTHS}' if the end token is text, got {text!r} as token {end} of "
            f"evaluation.vocabulary; add TensorSpec('{LENGTHS}', 'int64', ('batch',))"
        )


def _counted(batch: Sequence[Array], names: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each sample that count."""
    tokens: list[list[int]] = _tokens(batch, of_frames=False).tolist()
    lengths = batch[names.index(LENGTHS)] if LENGTHS in names else None
    if lengths is None or lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        return tokens
    return [row[: int(length)] for row, length in zip(tokens, lengths, strict=True)]


def _tokens(batch: Sequence[Array], *, of_frames: bool) -> Array:
    for array in batch:
        if array.dtype.kind in "iu" and array.ndim == _TOKENS:
            return array
        if of_frames and array.dtype.kind == "f" and array.ndim == _SCORES:
            return np.asarray(np.argmax(array, axis=-1))
    kinds = ", ".join(f"{array.dtype} {array.shape}" for array in batch)
    scores = ", or of floats and shape (samples, frames, tokens)" if of_frames else ""
    raise ModelBuildError(
        f"outputs must have one of integers and shape (samples, places){scores} for a metric of texts, got {kinds}; "
        "give the model such an output, or set another metric"
    )


def exact_match(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the share of texts that are the same."""
    return sum(one == other for one, other in zip(found, wanted, strict=True)) / len(wanted)


def word_error_rate(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the edits of words, over the words of all that was wanted (NIST's definition); it may be above 1."""
    return _error_rate([text.split() for text in found], [text.split() for text in wanted])


def character_error_rate(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the edits of characters, over the characters of all that was wanted; it may be above 1."""
    return _error_rate(found, wanted)


def bleu(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Return BLEU of all texts together, from 0 to 1: words in a row, up to four, with one reference for each text.

    Without smoothing, as in Papineni et al. 2002, https://aclanthology.org/P02-1040/.
    """
    pairs = [(one.split(), other.split()) for one, other in zip(found, wanted, strict=True)]
    logarithms = 0.0
    for length in range(1, LONGEST + 1):
        hits = total = 0
        for one, other in pairs:
            rows, known = _rows(one, length), _rows(other, length)
            hits += sum((rows & known).values())
            total += sum(rows.values())
        if not hits:
            return 0.0
        logarithms += log(hits / total)
    said, due = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    brevity = min(0.0, 1.0 - due / said)
    return exp(logarithms / LONGEST + brevity)


TEXT_SCORES: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "exact_match": exact_match,
    "word_error_rate": word_error_rate,
    "character_error_rate": character_error_rate,
    "bleu": bleu,
}


def edits(one: Sequence[object], other: Sequence[object]) -> int:
    """Return the fewest insertions, deletions and substitutions that make one sequence the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for place, member in enumerate(one, 1):
        diagonal, row[0] = row[0], place
        for column, wanted in enumerate(other, 1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (member != wanted)),
            )
    return row[-1]


def _error_rate(found: Sequence[Sequence[object]], wanted: Sequence[Sequence[object]]) -> float:
    total = sum(map(len, wanted))
    if not total:
        raise ModelBuildError("evaluation.data must have labels that are not empty, got empty texts alone")
    return sum(edits(one, other) for one, other in zip(found, wanted, strict=True)) / total


def _rows(words: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + length]) for start in range(len(words) - length + 1))
