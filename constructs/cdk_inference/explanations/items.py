"""The parts of an item that can be hidden: the cells of a picture, the tokens of a text, or the features of a row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cdk_inference.errors import PropError
from cdk_inference.explanations.vocabulary import Vocabulary
from cdk_inference.stages.stage_code import TOKENIZER_FILE, shape_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cdk_inference.model.recipe.tensors import TensorSpec
    from cdk_inference.stages.preprocess import Preprocess

TOKENS_FILE = "explanation_tokens.json"

_CHANNELS = (1, 3, 4)
_TABLE, _FIELD, _PICTURE = 2, 3, 4  # axes, with that of the batch
_FEWEST_FEATURES, _MOST_FEATURES = 2, 200


@dataclass(frozen=True)
class ItemParts:
    """The parts of an item, as the runtime is told of them.

    Parameters
    ----------
    kind
        ``cells``, ``tokens`` or ``features``.
    options
        How they are found, but for what hides them if that is measured.
    methods
        The methods that explain such items; the first is the default.
    channel_axis
        The axis of the channels, or of the features, whose means hide parts. None if one mean does, or none at all.
    baseline
        The name of what hides a part, if it is not measured.
    files
        Files that the runtime needs, by their name in the package.
    """

    kind: str
    options: Mapping[str, Any]
    methods: tuple[str, ...]
    channel_axis: int | None = None
    baseline: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    NOUNS: ClassVar[Mapping[str, str]] = {"cells": "a picture", "tokens": "a text", "features": "a row of a table"}

    @classmethod
    def of(cls, inputs: Sequence[TensorSpec], preprocess: Preprocess, *, grid: int) -> ItemParts:
        """Return the parts of what a model takes.

        Raises
        ------
        PropError
            The model takes neither tokens, nor one picture, nor one row of numbers.
        """
        if any(spec.name == "input_ids" for spec in inputs) and (file := preprocess.code.sources.get(TOKENIZER_FILE)):
            return _tokens(file)
        if len(inputs) == 1 and inputs[0].dtype not in ("bool", "string"):
            (spec,) = inputs
            if len(spec.shape) == _TABLE and isinstance(count := spec.shape[1], int):
                return _features(spec, count, preprocess)
            if (layout := _layout(spec)) is not None:
                axis = layout.find("C") + 1 if "C" in layout else None
                options = {"input": spec.name, "layout": layout, "grid": grid}
                return cls("cells", options, ("occlusion", "rise"), channel_axis=axis)
        takes = ", ".join(f"{spec.name}: {spec.dtype} {shape_text(spec.shape)}" for spec in inputs)
        raise PropError(
            f"explain must be of a model that takes one picture, the tokens of Preprocess.text, or one row of numbers, "
            f"got {takes}; leave explain out"
        )


def _features(spec: TensorSpec, count: int, preprocess: Preprocess) -> ItemParts:
    if not _FEWEST_FEATURES <= count <= _MOST_FEATURES:
        raise PropError(
            f"explain must be of a model with {_FEWEST_FEATURES} to {_MOST_FEATURES} features, got {count}; leave "
            "explain out"
        )
    options = preprocess.code.options or {}
    names = options.get("fields", options.get("columns"))
    known = [str(name) for name in names] if isinstance(names, list) and len(names) == count else None
    named = known if known is not None else [f"feature {place}" for place in range(count)]
    return ItemParts("features", {"input": spec.name, "names": named}, ("shapley",), channel_axis=1)


def _tokens(file: Path) -> ItemParts:
    found = Vocabulary.read(file)
    return ItemParts(
        "tokens",
        {"replacement": found.replacement, "attended": found.attended, "special": list(found.special)},
        ("leave_one_out",),
        baseline=found.replacement_text,
        files={TOKENS_FILE: json.dumps(found.texts, ensure_ascii=False, separators=(",", ":")).encode()},
    )


def _layout(spec: TensorSpec) -> str | None:
    if len(spec.shape) == _FIELD:
        return "HW"
    if len(spec.shape) != _PICTURE:
        return None
    return "HWC" if spec.shape[3] in _CHANNELS else "CHW" if spec.shape[1] in _CHANNELS else None
