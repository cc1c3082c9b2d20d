"""Turns the tokens of a decoder, or the scores of a recognizer with blanks (CTC), into text."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.stages.builtin.byte_tokens import ByteTokens
from inference_runtime.stages.builtin.stops import TextEnd, cut, stops_of
from inference_runtime.stages.builtin.vocabulary import LENGTHS, collapsed, read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inference_runtime.stages.builtin.vocabulary import Tokens
    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

_SCORES = 2  # axes: frames and tokens


class Transcript:
    """A postprocessing function for a model that gives tokens.

    Parameters
    ----------
    tokens
        Make text.
    output, blank, stop
        As those of `transcript_postprocessor`.
    """

    def __init__(self, tokens: Tokens, output: str, blank: int | None, stop: Sequence[str]) -> None:
        self._tokens = tokens
        self._output = output
        self._blank = blank
        self._stop = stop

    def __call__(self, outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:
        """Return `text`, and `score` if the model has an output `scores`."""
        values, blank = outputs[self._output], self._blank
        if values.ndim == _SCORES and blank is not None:
            values = np.argmax(values, axis=1)
        if values.ndim != 1 or values.dtype.kind not in "iu":  # wrong options, not a wrong object
            raise RuntimeError(f"the model's output has shape {list(values.shape)}, expected a token at each place")
        lengths = outputs.get(LENGTHS)
        if blank is None and lengths is not None and not lengths.ndim and lengths.dtype.kind in "iu":
            values = values[: int(lengths)]
        tokens = values.tolist()
        text = self._tokens.text(tokens if blank is None else collapsed(tokens, blank))
        said = {"text": text if blank is not None else cut(text, self._strings(item))}
        scores = outputs.get("scores")
        return said if scores is None or scores.ndim else {**said, "score": float(scores)}

    def text_end(self, item: Item) -> Callable[[], TextEnd] | None:
        """Return what begins to tell of each token of an item whether its text ends; None if the model decides."""
        strings, tokens = self._strings(item), self._tokens
        if not strings or self._blank is not None or not isinstance(tokens, ByteTokens):
            return None
        return partial(_text_end, tokens, strings)

    def _strings(self, item: Item) -> Sequence[str]:
        return (*self._stop, *stops_of(item.kept))


def transcript_postprocessor(
    vocabulary_file: str, output: str, blank: int | None = None, stop: Sequence[str] = ()
) -> Transcript:
    """Return a postprocessing function for a model that gives tokens.

    Parameters
    ----------
    vocabulary_file
        A file among the stage's sources: a text with one token a line, or the `tokenizer.json` of a byte-level or
        SentencePiece tokenizer.
    output
        The model's output that holds the tokens, or the scores of each frame.
    blank
        The token that stands for none; None for tokens that are taken as they are. Without a blank, tokens after the
        item's `lengths` do not count, if the model has such an output.
    stop
        Strings before the first of which the text ends, besides those that preprocessing keeps for an item.
    """
    vocabulary = read_vocabulary(os.path.join(os.environ.get("LAMBDA_TASK_ROOT", ""), vocabulary_file))  # noqa: PTH118
    return Transcript(vocabulary, output, blank, stop)


def _text_end(tokens: ByteTokens, strings: Sequence[str]) -> TextEnd:
    return TextEnd(tokens.stream(), strings)
