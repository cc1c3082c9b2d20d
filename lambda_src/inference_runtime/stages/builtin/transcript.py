"""Turns the tokens of a decoder, or the scores of a recognizer with blanks (CTC), into text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.stages.builtin.stops import cut
from inference_runtime.stages.builtin.vocabulary import LENGTHS, collapsed, read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

_SCORES = 2  # axes: frames and tokens


def transcript_postprocessor(
    vocabulary_file: str, output: str, blank: int | None = None, stop: Sequence[str] = ()
) -> Callable[[Mapping[str, Array], Item], dict[str, Any]]:
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
        Strings before the first of which the text ends.

    Returns
    -------
    Callable
        `postprocess(outputs, item)`, returning `text`, and `score` if the model has an output `scores`.
    """
    vocabulary = read_vocabulary(os.path.join(os.environ.get("LAMBDA_TASK_ROOT", ""), vocabulary_file))  # noqa: PTH118

    def postprocess(outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:  # noqa: ARG001 - the stage's signature
        values = outputs[output]
        if values.ndim == _SCORES and blank is not None:
            values = np.argmax(values, axis=1)
        if values.ndim != 1 or values.dtype.kind not in "iu":  # wrong options, not a wrong object
            raise RuntimeError(f"the model's output has shape {list(values.shape)}, expected a token at each place")
        lengths = outputs.get(LENGTHS)
        if blank is None and lengths is not None and not lengths.ndim and lengths.dtype.kind in "iu":
            values = values[: int(lengths)]
        tokens = values.tolist()
        text = vocabulary.text(tokens if blank is None else collapsed(tokens, blank))
        said = {"text": cut(text, stop)}
        scores = outputs.get("scores")
        return said if scores is None or scores.ndim else {**said, "score": float(scores)}

    return postprocess
