"""The evaluation that judges a model before it may ship."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.common.figures import ERROR_METRICS
from cdk_inference.model.recipe.checks import check, check_function, check_inside, check_number, is_function
from cdk_inference.model.recipe.heads import DetectionHead, Head, MaskHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.recipe.tensors import TensorSpec

METRICS = (
    "top1",
    "top5",
    "top1_agreement",
    "top5_agreement",
    "top1_sequence_agreement",
    "cosine",
    "mean_absolute_error",
    "box_f1",
    "box_map",
    "box_map50",
    "mean_iou",
    "exact_match",
    "word_error_rate",
    "character_error_rate",
    "bleu",
    "perplexity",
)
"""The common ones; any number of places may stand for 1 and 5, and ``"metrics.py:function"`` for your own."""

TEXT_METRICS = ("exact_match", "word_error_rate", "character_error_rate", "bleu")
"""Those that compare texts, which the vocabulary makes of tokens."""

BOX_METRICS = ("box_f1", "box_map", "box_map50")
"""Those that compare boxes, which a head reads from the outputs."""

_PERPLEXITY = "perplexity"
_LOGITS = 3  # axes: samples, positions, and the vocabulary
_ROUNDING = 1e-9  # of float64, in sums that exact arithmetic would give as equal
_TOP = re.compile(r"top([1-9]\d{0,3})(_agreement|_sequence_agreement)?")


@dataclass(frozen=True)
class Evaluation:
    """The gate: how good the deployed model must be on held-out data, next to the float one.

    Parameters
    ----------
    data
        ``"file.py:function"``; the function takes no arguments and yields batches, from data that calibration has not
        seen. A batch is a dict from input name to array, or a tuple that begins with such a dict. Labels come next, one
        per sample, or None. Descriptions may follow, one string per sample, for the model card.
    metric
        ``"top1_agreement"``: share of samples whose highest output is the same as the float model's (``"top5_..."``:
        is among its five highest); each position of a sequence counts by itself. ``"top1_sequence_agreement"``: share
        of samples of which all positions agree, such as the lines of a text recognition. ``"cosine"``: mean cosine
        similarity with the float model's outputs; where outputs or channels differ in scale, as boxes and scores do,
        that of the group that is least alike. These need no labels and are 1.0 for the float model.
        ``"top1"``, ``"top5"``: accuracy, with class numbers as labels.
        ``"mean_absolute_error"``: to the labels, or to the float model's outputs without labels; lower is better.
        ``"box_f1"``: F1 score of the boxes that `head` finds, at an intersection over union of 0.5, with those of the
        labels, or of the float model without labels. Labels are an array (boxes, 5) per sample: class, left, top, right
        and bottom, in the units of the model's boxes.
        ``"box_map"``: mean average precision of the boxes as in COCO, over the intersections over union 0.5, 0.55, …,
        0.95, and over the classes that labels have; ``"box_map50"``: the same at 0.5. Without labels, the boxes of the
        float model that have a score of 0.25 or more are the labels.
        ``"mean_iou"``: mean over the classes of the intersection over union of the pixels that `head` assigns to them,
        with the labels, an array (height, width) of classes per sample, or with the float model without labels.
        ``"exact_match"``: share of samples whose text is the label, or that of the float model without labels.
        ``"word_error_rate"``, ``"character_error_rate"``: edits that lead from the text to the label, over the length
        of all labels; lower is better. ``"bleu"``: up to four words in a row (Papineni et al. 2002), from 0 to 1.
        These need a vocabulary.
        ``"perplexity"``: of a language model with one graph, whose logits are the first output of floats with three
        axes: samples, positions, vocabulary. Labels are the tokens that the positions should give, an array (samples,
        positions); -100 does not count. Lower is better, 1 is the best, and `max_drop` is in its own unit, such as 0.5.
        ``"file.py:function"``: your own function of two lists, the outputs and the labels, with a member for each
        batch. Outputs are dicts from output name to array. It returns a number; higher is better.
        Classification metrics look at the first output of float numbers that has classes on its last axis. The samples
        that count must have two or more classes.
    max_drop
        The build fails if the metric is worse than the float model's by more than this.
    min_confidence
        For classification metrics, only samples count of which the float model itself is this sure: the highest softmax
        of the first output, in [0, 1). None: all samples. For metrics of boxes, the score from which a box counts.
        None: 0.25, and 0.001 for average precisions, which weigh boxes by their score.
    floor
        The build also fails if the metric is below this (above, for an error), whatever the float model reaches.
    max_latency_ms
        The build also fails if one sample takes longer than this, in milliseconds on one thread of this machine.
    max_size_mb
        The build also fails if the model is larger than this as it is deployed, in millions of bytes.
    class_names
        A text file in the recipe's folder with the name of a class a line, for the model card.
    head
        The form of the model's outputs, for metrics of boxes (such as `YoloHead`) and ``"mean_iou"`` (`MaskHead`).
    vocabulary
        A text file in the recipe's folder with a token a line, for metrics of texts. The first output of integers with
        two axes is the tokens. Tokens in angle brackets, such as ``</s>``, are left out, and ``▁`` is a space. Or the
        ``tokenizer.json`` of byte-level or SentencePiece tokens, whose special ones are left out.
    blank
        The token that stands for none, for a recognizer that gives scores of tokens for each frame (CTC). The first
        output of floats with three axes is the scores; or the first of integers is the best tokens, with repetitions.
    sample_rate
        In Hz, if the model takes sound: how many places a second has on the second axis of its first input. The card
        then gives the real-time factor, the seconds of computation for a second of sound.
    """

    data: str
    metric: str = "top1_agreement"
    max_drop: float = 0.05
    min_confidence: float | None = None
    floor: float | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    class_names: str | None = None
    head: Head | None = None
    vocabulary: str | None = None
    blank: int | None = None
    sample_rate: int | None = None

    def __post_init__(self) -> None:
        check_function("evaluation.data", self.data)
        known = isinstance(self.metric, str) and (
            self.metric in METRICS or _TOP.fullmatch(self.metric) or is_function(self.metric)
        )
        check(known, "metric", self.metric, f"one of {', '.join(METRICS)}, or 'file.py:function'")
        check_number("max_drop", self.max_drop, "a number from 0", low=0)
        if self.metric in METRICS and self.higher_is_better:
            check_number("max_drop", self.max_drop, "from 0 to 1", low=0, high=1)
        if self.min_confidence is not None:
            check_number("min_confidence", self.min_confidence, "from 0 to below 1", low=0, high=0.999999)
            counts = self.top is not None or self.metric in BOX_METRICS
            check(counts, "min_confidence", self.min_confidence, f"None with metric {self.metric!r}")
        if self.floor is not None:
            check_number("floor", self.floor, "a number")
        for name in ("max_latency_ms", "max_size_mb"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, "above 0", above=0)
        if self.class_names is not None:
            check_inside("class_names", self.class_names)
        if self.metric in BOX_METRICS:
            rule = f"a YoloHead or the like with metric {self.metric}"
            check(isinstance(self.head, DetectionHead), "head", self.head, rule)
        elif self.metric == "mean_iou":
            check(isinstance(self.head, MaskHead), "head", self.head, "a MaskHead with metric mean_iou")
        else:
            check(self.head is None, "head", self.head, f"None with metric {self.metric!r}; leave it out")
        if self.vocabulary is not None:
            check_inside("vocabulary", self.vocabulary)
        has_texts = self.vocabulary is not None or self.metric not in TEXT_METRICS
        check(has_texts, "vocabulary", None, f"given with metric {self.metric!r}; name a file with a token a line")
        whole = isinstance(self.blank, int) and not isinstance(self.blank, bool) and self.blank >= 0
        check(self.blank is None or (whole and self.vocabulary), "blank", self.blank, "a token of the vocabulary")
        if self.sample_rate is not None:
            whole = isinstance(self.sample_rate, int) and not isinstance(self.sample_rate, bool)
            check(whole and self.sample_rate >= 1, "sample_rate", self.sample_rate, "a whole number of Hz from 1")

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return self.metric not in ERROR_METRICS

    @property
    def top(self) -> int | None:
        """Number of highest outputs that a classification metric looks at; None for the others."""
        found = _TOP.fullmatch(self.metric)
        return int(found[1]) if found else None

    @property
    def whole_sequences(self) -> bool:
        """Whether a sample counts as a whole, and not each of its positions."""
        return self.metric.endswith("_sequence_agreement")

    @property
    def needs_labels(self) -> bool:
        """Whether the metric is nothing without labels."""
        return self.metric == _PERPLEXITY or (self.top is not None and not self.metric.endswith("_agreement"))

    def check_outputs(self, outputs: Sequence[TensorSpec]) -> None:
        """Check that a model has the outputs that the metric reads.

        Raises
        ------
        ModelBuildError
            If it has not.
        """
        if self.head is not None:
            self.head.layout(outputs)
        if self.metric == _PERPLEXITY:
            logits_output(outputs)


def logits_output(outputs: Sequence[TensorSpec]) -> int:
    """Return the place of a language model's logits among its outputs: the first of floats with three axes.

    Raises
    ------
    ModelBuildError
        If there is none.
    """
    places = [
        place for place, spec in enumerate(outputs) if spec.dtype.startswith("float") and len(spec.shape) == _LOGITS
    ]
    rule = "tensors of which one has floats and the axes samples, positions and vocabulary with metric 'perplexity'"
    check(bool(places), "outputs", [(spec.name, spec.dtype, spec.shape) for spec in outputs], rule)
    return places[0]


def limit(evaluation: Evaluation, baseline: float) -> float:
    """Return the worst value that passes the gate, given that of the float model."""
    if evaluation.higher_is_better:
        allowed = baseline - evaluation.max_drop
        return allowed if evaluation.floor is None else max(allowed, evaluation.floor)
    allowed = baseline + evaluation.max_drop
    return allowed if evaluation.floor is None else min(allowed, evaluation.floor)


def passes(evaluation: Evaluation, value: float, gate: float) -> bool:
    """Tell whether the deployed model's value is good enough; the last bits of a sum do not decide."""
    slack = _ROUNDING * max(abs(gate), abs(value))
    return value >= gate - slack if evaluation.higher_is_better else value <= gate + slack
