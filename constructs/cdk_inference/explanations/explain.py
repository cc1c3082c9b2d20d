"""When and how answers are explained: the choice that a pipeline is given."""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_between, check_choice, check_share
from cdk_inference.errors import PropError
from cdk_inference.explanations.faithfulness import measured
from cdk_inference.explanations.items import ItemParts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import Duration
    from constructs import Construct

    from cdk_inference.explanations.faithfulness import ExplainedModel
    from cdk_inference.model.recipe.tensors import TensorSpec
    from cdk_inference.model.records.faithfulness import Faithfulness
    from cdk_inference.stages.preprocess import Preprocess

METADATA_KEY = "cdk-inference:explanations"
"""Type of the metadata in a cloud assembly that holds what the functions are told, and the figures."""

SETTINGS_FILE = "explanation.json"
"""The settings in the package of the function that runs the model."""

Method = Literal["occlusion", "rise", "leave_one_out", "shapley"]
Baseline = Literal["mean", "zero"]

_FEWEST_CELLS, _MOST_CELLS = 2, 12
_FEWEST_MASKS, _MOST_MASKS = 100, 10_000
_MOST_SECONDS = 300
_SECONDS = 10


class ExplainOptions(TypedDict, total=False):
    """Options of all factories of `Explain`.

    Attributes
    ----------
    method
        The method: ``"occlusion"`` or ``"rise"`` for pictures, ``"leave_one_out"`` for texts,
        ``"shapley"`` for rows of a table. Default: the first of these that fits.
    baseline
        The value that hides a part of a picture or of a row: the ``"mean"`` of the calibration data, or ``"zero"``.
        Default: ``"mean"``.
    grid
        Rows and columns of a picture's grid, 2 to 12. Default: 8.
    masks
        Runs of the model for RISE, 100 to 10,000. Default: 400.
    max_time
        The most time that the explanations of a batch take, 1 to 300 seconds. Default: 10 seconds.
    heat_map
        Whether grids are kept as pictures too, in the work bucket for a day; not in one function. Default: False.
    """

    method: Method | None
    baseline: Baseline
    grid: int
    masks: int
    max_time: Duration | None
    heat_map: bool


@dataclass(frozen=True)
class Explanation:
    """The settings of explanations for the functions of a route.

    Parameters
    ----------
    mode
        ``always``, ``on_request`` or ``when``.
    settings
        For the function that runs the model.
    files
        Files of that function, by their name in the package; the settings are one.
    figures
        The measurements; None for a model that was not built.
    share
        The share of the answers that is explained, for estimates of costs.
    """

    mode: str
    settings: Mapping[str, Any]
    files: Mapping[str, bytes]
    figures: Faithfulness | None
    share: float

    @property
    def reading_environment(self) -> dict[str, str]:
        """The variables of the function that reads objects."""
        return {"EXPLAIN": self.mode}

    @property
    def engine_environment(self) -> dict[str, str]:
        """The variables of the function that runs the model."""
        return {"EXPLANATION_SETTINGS": SETTINGS_FILE}

    def above(self, threshold: float) -> Explanation:
        """Return it for the first model of a cascade: what that passes on gets another answer, and is not explained."""
        settings = {**self.settings, "from": threshold}
        return replace(self, settings=settings, files={**self.files, SETTINGS_FILE: _written(settings)})

    def record(self, scope: Construct) -> None:
        """Say it in the cloud assembly, with the figures."""
        figures = None if self.figures is None else asdict(self.figures)
        facts = {"settings": dict(self.settings), "share": self.share, "figures": figures}
        scope.node.add_metadata(METADATA_KEY, json.dumps(facts, sort_keys=True))


@check_props
@dataclass(frozen=True)
class Explain:
    """Why the model answered so, on the row; made by one of the class methods.

    The model that is deployed runs again on each item that is explained, with parts of it hidden. This happens after
    the answers of the batch are there, and only while there is time.

    When the app is synthesized, explanations are made for evaluation data, and must be more faithful than random ones.
    """

    condition: str | float
    """``"always"``, ``"on_request"``, or the confidence below which an answer is explained."""
    expected_share: float | None
    """Share of the answers that are explained, if that is not measured."""
    _: KW_ONLY
    method: Method | None = None
    baseline: Baseline = "mean"
    grid: int = 8
    masks: int = 400
    max_time: Duration | None = None
    heat_map: bool = False

    def __post_init__(self) -> None:
        if self.method is not None:
            check_choice(("occlusion", "rise", "leave_one_out", "shapley"), method=self.method)
        check_choice(("mean", "zero"), baseline=self.baseline)
        check_between(_FEWEST_CELLS, _MOST_CELLS, "rows and columns", grid=self.grid)
        check_between(_FEWEST_MASKS, _MOST_MASKS, masks=self.masks)
        if self.max_time is not None:
            seconds("max_time", self.max_time, least=1, most=_MOST_SECONDS)

    @classmethod
    def when(cls, *, confidence_below: float, **options: Unpack[ExplainOptions]) -> Explain:
        """Explain the answers that the model is not sure of.

        Parameters
        ----------
        confidence_below
            Answers with a lower confidence, the highest softmax, are explained; above 0 and at most 1.
        **options
            As those of `ExplainOptions`.

        Raises
        ------
        PropError
            A value is out of range.
        """
        check_share(confidence_below=confidence_below)
        if confidence_below == 0:
            raise PropError("confidence_below must be above 0, got 0, below which no answer is; leave explain out")
        return cls(float(confidence_below), None, **options)

    @classmethod
    def always(cls, **options: Unpack[ExplainOptions]) -> Explain:
        """Explain every answer.

        Parameters
        ----------
        **options
            As those of `ExplainOptions`.

        Raises
        ------
        PropError
            A value is out of range.
        """
        return cls("always", 1.0, **options)

    @classmethod
    def on_request(cls, *, expected_share: float = 0.01, **options: Unpack[ExplainOptions]) -> Explain:
        """Explain the answers to objects whose metadata say ``explain: true``, as their uploader wishes.

        Parameters
        ----------
        expected_share
            Share of the objects that ask, for estimates of costs.
        **options
            As those of `ExplainOptions`.

        Raises
        ------
        PropError
            A value is out of range.
        """
        check_share(expected_share=expected_share)
        return cls("on_request", expected_share, **options)

    def bind(self, model: ExplainedModel, preprocess: Preprocess) -> Explanation:
        """Check what is explained against a model, measure its explanations, and return what the functions are told.

        Raises
        ------
        PropError
            The model's inputs have no parts that could be hidden, or its outputs nothing that could be explained.
        ModelBuildError
            The explanations are not more faithful than random ones.
        """
        parts = ItemParts.of(model.inputs, preprocess, grid=self.grid)
        method = self._method(parts)
        output, target = _explained(model)
        if target != "class" and not isinstance(self.condition, str):
            raise PropError(
                f"confidence_below must be of a model that returns scores of classes first, got '{output}' of "
                f"{model.manifest.name}; use Explain.always or Explain.on_request"
            )
        baseline = parts.baseline if parts.baseline is not None else self.baseline
        limit = None if self.max_time is None else seconds("max_time", self.max_time, least=1, most=_MOST_SECONDS)
        settings = {
            "when": self.condition,
            "seconds": _SECONDS if limit is None else limit,
            "output": output,
            "target": target,
            "method": method,
            **({"masks": self.masks} if method == "rise" else {}),
            "parts": parts.kind,
            "options": dict(parts.options),
            "baseline": baseline,
        }
        figures = measured(
            model, settings, channel_axis=parts.channel_axis, common=parts.common, zero=baseline == "zero"
        )
        if figures is not None and figures.fill:
            settings["options"] = {**parts.options, "fill": list(figures.fill)}
        if self.heat_map:  # only now: it changes nothing that is measured
            if parts.kind != "cells":
                raise PropError(
                    f"heat_map must be left out for {parts.NOUNS[parts.kind]}, got True; only a grid can be drawn"
                )
            settings["heat_map"] = True
        share = self.expected_share
        if share is None:
            share = 0.0 if figures is None or figures.share is None else figures.share
        files = {SETTINGS_FILE: _written(settings), **parts.files}
        mode = self.condition if isinstance(self.condition, str) else "when"
        return Explanation(mode, settings, files, figures, share)

    def _method(self, parts: ItemParts) -> str:
        if self.method is None:
            return parts.methods[0]
        if self.method not in parts.methods:
            choices = " or ".join(map(repr, parts.methods))
            raise PropError(f"method must be {choices} for {parts.NOUNS[parts.kind]}, got '{self.method}'")
        return self.method


def _written(settings: Mapping[str, Any]) -> bytes:
    return json.dumps(settings, sort_keys=True, ensure_ascii=False).encode()


def _explained(model: ExplainedModel) -> tuple[str, str]:
    """Return the output that is explained, and what of it: the first, by which a cascade decides too."""
    spec: TensorSpec = model.outputs[0]
    sizes = spec.shape[1:]
    if not spec.dtype.startswith("float") or len(sizes) > 1:
        raise PropError(
            f"explain must be of a model whose first output is a number, class scores or a vector of floats, got "
            f"'{spec.name}' {spec.dtype} {spec.shape} of {model.manifest.name}; put that first, or leave explain out"
        )
    if not sizes or sizes[0] == 1:
        return spec.name, "number"
    metric = None if model.manifest.metric is None else model.manifest.metric.name
    return spec.name, "similarity" if metric in ("cosine", "mean_absolute_error") else "class"
