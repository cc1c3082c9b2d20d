"""Judges language models by how likely they find the tokens that really come.

Jelinek et al., "Perplexity: a measure of the difficulty of speech recognition tasks", 1977.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]

IGNORED = -100
"""Positions with this label do not count, as in PyTorch and transformers."""

_STRAY = 1e-3  # how far sums of probabilities may be from one


def perplexity(expected: Sequence[Array], found: Sequence[Array]) -> tuple[float, int]:
    """Return the perplexity of a language model, and the number of tokens that count.

    It is the exponential of the mean negative log-likelihood of the tokens in all batches together. It is 1 for a model
    that is sure and right. For one that finds all tokens equally likely, it is the size of the vocabulary. A value that
    is infinite or not a number is returned as it is.

    Parameters
    ----------
    expected
        For each batch, the token that each position should give, (samples, positions). `IGNORED` does not count.
    found
        For each batch, the logits of all tokens, (samples, positions, vocabulary). They need not be normalized.

    Raises
    ------
    ModelBuildError
        Labels are not tokens of the vocabulary, or fewer than two different ones count.
    """
    losses = []
    known: set[int] = set()
    for index, (wanted, logits) in enumerate(zip(expected, found, strict=True)):
        _check_tokens(index, wanted, logits)
        for tokens, rows in zip(wanted, logits, strict=True):  # one sample at a time: a vocabulary is large in float64
            counted = tokens != IGNORED
            losses.append(_losses(rows[counted], tokens[counted]))
            known.update(tokens[counted].tolist())
    if len(known) < 2:  # noqa: PLR2004
        raise ModelBuildError(
            f"evaluation.data must have two or more different tokens for metric 'perplexity', got {len(known)}, so "
            "that a model that always gives it would pass; add other samples"
        )
    every = np.concatenate(losses)
    with np.errstate(over="ignore"):  # what is too large is infinite, which the caller refuses
        return float(np.exp(every.mean())), every.size


def are_probabilities(found: Sequence[Array]) -> bool:
    """Tell whether outputs are probabilities, and not logits: none is negative, and those of a position add up to 1."""
    return all(
        rows.min(initial=0) >= 0 and np.allclose(rows.sum(axis=-1, dtype=np.float64), 1.0, atol=_STRAY)
        for batch in found
        for rows in batch
    )


def _losses(logits: Array, tokens: Array) -> Array:
    """Return the negative log-likelihood of each token, (positions,) float64, by logarithms of sums that fit."""
    values = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite less infinite is not a number, which the caller refuses
        values -= values.max(axis=-1, keepdims=True)
    right = np.take_along_axis(values, tokens[:, None], axis=-1)[:, 0]
    return np.asarray(np.log(np.exp(values).sum(axis=-1)) - right)


def _check_tokens(index: int, wanted: Array, logits: Array) -> None:
    vocabulary = logits.shape[-1]
    what = f"metric 'perplexity': labels of evaluation batch {index} must be token numbers"
    if wanted.shape != logits.shape[:-1] or wanted.dtype.kind not in "iu":
        raise ModelBuildError(f"{what} of shape {logits.shape[:-1]}, got {wanted.dtype} {wanted.shape}")
    tokens = wanted[wanted != IGNORED]
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocabulary:
        raise ModelBuildError(
            f"{what} from 0 to {vocabulary - 1}, or {IGNORED} where none counts, got {tokens.min()} to {tokens.max()}"
        )
