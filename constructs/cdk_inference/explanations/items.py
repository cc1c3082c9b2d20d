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

STRING = "string"

_CHANNELS = (1, 3, 4)
_FIELD, _PICTURE = 3, 4  # axes, with that of the batch
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
        The axis of the channels of a picture, whose means hide cells. None if one mean does.
    common
        The features that their most frequent value hides, not their mean.
    baseline
        The name of what hides a part, if it is not measured.
    files
        Files that the runtime needs, by their name in the package.
    """

    kind: str
    options: Mapping[str, Any]
    methods: tuple[str, ...]
    channel_axis: int | None = None
    common: tuple[int, ...] = ()
    baseline: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    NOUNS: ClassVar[Mapping[str, str]] = {"cells": "a picture", "tokens": "a text", "features": "a row of a table"}

    @classmethod
    def of(cls, inputs: Sequence[TensorSpec], preprocess: Preprocess, *, grid: int) -> ItemParts:
        """Return the parts of what a model takes.

        Raises
        ------
        PropError
            The model takes neither tokens, nor one picture, nor the values of a row.
        """
        if any(spec.name == "input_ids" for spec in inputs) and (file := preprocess.code.sources.get(TOKENIZER_FILE)):
            return _tokens(file)
        if (places := _places(inputs)) is not None:
            return _features(inputs, places, preprocess)
        if len(inputs) == 1 and inputs[0].dtype not in ("bool", STRING):
            (spec,) = inputs
            if (layout := _layout(spec)) is not None:
                axis = layout.find("C") + 1 if "C" in layout else None
                options = {"input": spec.name, "layout": layout, "grid": grid}
                return cls("cells", options, ("occlusion", "rise"), channel_axis=axis)
        takes = ", ".join(f"{spec.name}: {spec.dtype} {shape_text(spec.shape)}" for spec in inputs)
        raise PropError(
            "explain must be of a model that takes one picture, the tokens of Preprocess.text, or the values of a row, "
            f"got {takes}; leave explain out"
        )


def _places(inputs: Sequence[TensorSpec]) -> list[tuple[str, int]] | None:
    """Return input and place of each feature: of one row of numbers, or of an input for each; None of other inputs."""
    if len(inputs) == 1:
        (spec,) = inputs
        sizes = spec.shape[1:]
        one_row = len(sizes) == 1 and isinstance(sizes[0], int) and spec.dtype != "bool"
        return [(spec.name, place) for place in range(int(sizes[0]))] if one_row else None
    single = all(spec.shape[1:] in ((), (1,)) for spec in inputs)
    return [(spec.name, 0) for spec in inputs] if single else None


def _features(inputs: Sequence[TensorSpec], places: list[tuple[str, int]], preprocess: Preprocess) -> ItemParts:
    if not _FEWEST_FEATURES <= len(places) <= _MOST_FEATURES:
        raise PropError(
            f"explain must be of a model with {_FEWEST_FEATURES} to {_MOST_FEATURES} features, got {len(places)}; "
            "leave explain out"
        )
    if len(inputs) > 1:
        names = [name for name, _ in places]
    elif len(preprocess.columns) == len(places):
        names = [column.name for column in preprocess.columns]
    else:
        names = [f"feature {place}" for _, place in places]
    categories = {column.name for column in preprocess.columns if column.kind != "number"}
    types = {spec.name: spec.dtype for spec in inputs}
    common = [
        feature
        for feature, (name, (input_name, _)) in enumerate(zip(names, places, strict=True))
        if name in categories or types[input_name] in ("bool", STRING)
    ]
    return ItemParts("features", {"places": places, "names": names}, ("shapley",), common=tuple(common))


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
