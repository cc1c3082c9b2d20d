"""How good outputs are: against labels, or against those of the float model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation import boxes, masks, perplexity
from cdk_inference.model.building.evaluation.average_precision import COCO, HALF, mean_average_precision
from cdk_inference.model.recipe.evaluation import BOX_METRICS, TEXT_METRICS, logits_output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cdk_inference.model.building.evaluation.data import Samples
    from cdk_inference.model.recipe.evaluation import Evaluation
    from cdk_inference.model.recipe.heads import DetectionHead, MaskHead
    from cdk_inference.model.recipe.tensors import TensorSpec
    from inference_runtime.stages.builtin.vocabulary import Tokens

_CLASSIFIED = 2  # axes of scores, at least: samples and classes

Array = np.ndarray[Any, Any]
Outputs = list[list[Array]]
"""For each batch, the outputs in the order that the recipe declares."""

SCALES = 8.0
"""Channels whose root mean squares differ by more than this, with none between them, have separate scales."""

FOUND = 0.25
"""Detectors usually take a score from here on for a find."""

RANKED = 0.001
"""From here on, average precisions rank boxes by their score, as tools of detectors do."""

Score = tuple[float, int]
"""A metric's value, and the number of samples that counted."""

DIGITS = 5  # CPUs differ in the last bits


@dataclass(frozen=True)
class Judge:
    """Scores outputs by an evaluation's metric.

    Parameters
    ----------
    evaluation
        Metric and gate.
    samples
        The evaluation data.
    reference
        Outputs of the float model.
    outputs
        The outputs that the recipe declares.
    function
        The user's metric, if the evaluation names one.
    vocabulary
        Makes texts of tokens, if the evaluation names one.
    """

    evaluation: Evaluation
    samples: Samples
    reference: Outputs
    outputs: Sequence[TensorSpec]
    function: Callable[..., Any] | None = None
    vocabulary: Tokens | None = None

    @property
    def names(self) -> list[str]:
        """The names of the outputs."""
        return [spec.name for spec in self.outputs]

    def score(self, outputs: Outputs) -> Score:
        """Return the metric's value for some outputs, not rounded.

        Raises
        ------
        ModelBuildError
            If labels are missing or do not fit, nothing counts, or the user's metric returns no finite number.
        """
        metric = self.evaluation.metric
        if self.function is not None:
            value = self._own(outputs)
            count = sum(self.samples.sizes)
        elif self.evaluation.top is not None:
            value, count = self._top(outputs, self.evaluation.top)
        elif metric in BOX_METRICS:
            value, count = self._detections(outputs), sum(self.samples.sizes)
        elif metric == "mean_iou":
            value, count = self._mean_iou(outputs), sum(self.samples.sizes)
        elif metric in TEXT_METRICS:
            value, count = self._texts(outputs)
        elif metric == "perplexity":
            value, count = self._perplexity(outputs)
        elif metric == "cosine":
            value, count = likeness(outputs, self.reference), sum(self.samples.sizes)
        else:
            value, count = self._mean_absolute_error(outputs)
        if not np.isfinite(value):
            raise ModelBuildError(f"metric '{metric}' must be a finite number, got {value}")
        return value, count

    def found(self, outputs: Outputs, *, least: float = FOUND) -> list[Array]:
        """Return the boxes that a detector finds in each sample, see `boxes.find`.

        Parameters
        ----------
        least
            The lowest score of a box that counts, if the evaluation has no `min_confidence`.
        """
        layout = cast("DetectionHead", self.evaluation.head).layout(self.outputs)
        if self.evaluation.min_confidence is not None:
            least = self.evaluation.min_confidence
        return [
            boxes.find({spec.name: array[row] for spec, array in zip(self.outputs, batch, strict=True)}, layout, least)
            for batch in outputs
            for row in range(len(batch[0]))
        ]

    def _detections(self, outputs: Outputs) -> float:
        metric = self.evaluation.metric
        if self.samples.labelled:
            expected = [
                boxes.check_labels(sample, f"metric '{metric}': labels of evaluation batch {index}")
                for index, batch in enumerate(self.samples.labels)
                for sample in batch
            ]
        else:
            expected = [boxes.labelled(found) for found in self.found(self.reference)]
        boxes.check_some(expected, metric)
        if metric == "box_f1":
            return boxes.f1(expected, self.found(outputs))
        ranked = self.found(outputs, least=RANKED)
        return mean_average_precision(expected, ranked, HALF if metric == "box_map50" else COCO)

    def _mean_iou(self, outputs: Outputs) -> float:
        layout = cast("MaskHead", self.evaluation.head).layout(self.outputs)
        place = self.names.index(layout.output)

        def classes(batches: Outputs) -> list[Array]:
            return [masks.classes_of(batch[place], layout) for batch in batches]

        if not self.samples.labelled:
            return masks.mean_iou(classes(self.reference), classes(outputs), layout.classes)
        labels = [np.asarray(self._labels(index)) for index in range(len(outputs))]
        return masks.mean_iou(labels, classes(outputs), layout.classes)

    def _perplexity(self, outputs: Outputs) -> Score:
        place = logits_output(self.outputs)
        if perplexity.are_probabilities([batch[place] for batch in self.reference]):
            raise ModelBuildError(
                f"output '{self.names[place]}' must be logits for metric 'perplexity', got probabilities; leave the "
                "softmax out of the model"
            )
        labels = [np.asarray(self._labels(index)) for index in range(len(outputs))]
        return perplexity.perplexity(labels, [batch[place] for batch in outputs])

    def _own(self, outputs: Outputs) -> float:
        named = [dict(zip(self.names, map(_read_only, batch), strict=True)) for batch in outputs]
        value = self.function(named, self.samples.labels) if self.function else None
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            got = type(value).__name__
            if isinstance(value, dict):
                got = f"a dict with {', '.join(map(repr, value)) or 'nothing'}; return the one value that decides"
            raise ModelBuildError(f"metric '{self.evaluation.metric}' must return a number, got {got}") from None

    def _top(self, outputs: Outputs, places: int) -> Score:
        hits: list[Array] = []
        known: set[int] = set()
        output = scores_output(self.reference[0], places)
        for index, (batch, floats) in enumerate(zip(outputs, self.reference, strict=True)):
            scores, reference = batch[output], floats[output]
            if scores.ndim < _CLASSIFIED or places >= scores.shape[-1]:
                raise ModelBuildError(
                    f"metric '{self.evaluation.metric}' needs more than {places} classes on the last axis, got "
                    f"{scores.shape} as the shape of output '{self.names[output]}'; declare the output with a score "
                    "for each class, or use another metric, such as 'cosine' or 'mean_absolute_error'"
                )
            sure: Array = confidences(reference) >= (self.evaluation.min_confidence or 0.0)
            truth = self._classes(index, scores) if self.evaluation.needs_labels else np.argmax(reference, axis=-1)
            known.update(np.unique(truth[sure]).tolist())
            best = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")[..., :places]
            hit: Array = np.any(best == truth[..., None], axis=-1)
            if self.evaluation.whole_sequences:
                hit, sure = (each.reshape(len(each), -1) for each in (hit | ~sure, sure))
                hit, sure = np.all(hit, axis=1), np.any(sure, axis=1)
            hits.append(hit[sure])
        found = np.concatenate([h.reshape(-1) for h in hits])
        if not found.size:
            raise ModelBuildError(
                f"evaluation.data must have samples of which the float model is {self.evaluation.min_confidence:.0%} "
                "sure, got none; lower min_confidence, or give data that the model was trained for"
            )
        if len(known) == 1:
            raise ModelBuildError(
                f"evaluation.data must have two or more classes for metric '{self.evaluation.metric}', got class "
                f"{known.pop()} alone, so that a model that always gives it would pass; add samples of other classes"
            )
        return float(np.mean(found)), int(found.size)

    def _texts(self, outputs: Outputs) -> Score:
        from cdk_inference.model.building.evaluation.texts import TEXT_SCORES, texts_of  # noqa: PLC0415 - few models

        if self.vocabulary is None:
            raise AssertionError("metrics of texts come with a vocabulary")
        found = texts_of(outputs, self.names, self.vocabulary, self.evaluation.blank)
        if self.samples.labelled:
            wanted = [self._text(label) for batch in self.samples.labels for label in batch]
        else:
            wanted = texts_of(self.reference, self.names, self.vocabulary, self.evaluation.blank)
        if len({*wanted}) == 1:
            raise ModelBuildError(
                f"evaluation.data must have two or more texts for metric '{self.evaluation.metric}', got "
                f"{wanted[0]!r:.100} alone, so that a model that always gives it would pass; add other samples"
            )
        return TEXT_SCORES[self.evaluation.metric](found, wanted), len(wanted)

    def _text(self, label: object) -> str:
        if not isinstance(label, str):
            raise ModelBuildError(
                f"metric '{self.evaluation.metric}' needs labels that are strings, got {type(label).__name__}; yield "
                "(inputs, a list of texts) from evaluation.data"
            )
        return str(label)

    def _classes(self, index: int, scores: Array) -> Array:
        labels = np.asarray(self._labels(index))
        classes = scores.shape[-1]
        fits = labels.shape == scores.shape[:-1] and labels.dtype.kind in "iu"
        if not fits or (labels.size and not 0 <= labels.min() <= labels.max() < classes):
            raise ModelBuildError(
                f"metric '{self.evaluation.metric}': labels of evaluation batch {index} must be class "
                f"numbers from 0 to {classes - 1} of shape {scores.shape[:-1]}, got {labels.dtype} {labels.shape}"
            )
        return labels

    def _labels(self, index: int) -> Any:  # noqa: ANN401 - whatever the user yields
        labels = self.samples.labels[index]
        if labels is None:
            raise ModelBuildError(
                f"metric '{self.evaluation.metric}' needs labels, got none; yield (inputs, labels) from evaluation.data"
            )
        return labels

    def _mean_absolute_error(self, outputs: Outputs) -> Score:
        errors: list[Array] = []
        for index, (batch, reference) in enumerate(zip(outputs, self.reference, strict=True)):
            pairs = list(zip(batch, reference, strict=True))
            if not self.samples.labelled and any(one.shape != two.shape for one, two in pairs):
                raise ModelBuildError("outputs differ in shape from those of float32, so that they cannot be compared")
            if self.samples.labelled:
                labels = np.asarray(self._labels(index))
                if labels.size != batch[0].size or labels.dtype.kind not in "fiu":
                    raise ModelBuildError(
                        f"metric 'mean_absolute_error': labels of evaluation batch {index} must be numbers of shape "
                        f"{batch[0].shape}, as output '{self.names[0]}', got {labels.dtype} {labels.shape}"
                    )
                pairs = [(batch[0], labels.reshape(batch[0].shape))]
            errors += [np.abs(a.astype(np.float64) - b.astype(np.float64)).reshape(-1) for a, b in pairs]
        return float(np.mean(np.concatenate(errors))), sum(self.samples.sizes)


def scores_output(arrays: Sequence[Array], places: int = 1) -> int:
    """Return the place of the class scores among outputs: the first of float numbers for more classes than places.

    The first output if there is none. scikit-learn's models give the label before the probabilities.
    """
    for index, array in enumerate(arrays):
        if array.dtype.kind == "f" and array.ndim >= _CLASSIFIED and array.shape[-1] > places:
            return index
    return 0


def rounded(value: float) -> float:
    """Return a value to as many digits as every CPU agrees on."""
    return float(f"{value:.{DIGITS}g}")


def confidences(scores: Array) -> Array:
    """Return the highest softmax along the last axis; what sums up to one already is taken as it is."""
    values = scores.astype(np.float64)
    if values.size and values.min() >= 0 and np.allclose(values.sum(axis=-1), 1.0, atol=1e-3):
        return np.asarray(np.minimum(values.max(axis=-1), 1.0))
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(exponentials.max(axis=-1) / exponentials.sum(axis=-1))


def cosines(a: Outputs, b: Outputs) -> Array:
    """Return the cosine similarity of each sample's outputs, all of them as one vector.

    Raises
    ------
    ModelBuildError
        If outputs differ in shape, as those that depend on the data may.
    """
    shapes = [[array.shape for batch in outputs for array in batch] for outputs in (a, b)]
    if shapes[0] != shapes[1]:
        raise ModelBuildError("outputs differ in shape from those of float32, so that they cannot be compared")
    return np.concatenate([_cosines(left, right) for left, right in zip(a, b, strict=True)])


def likeness(outputs: Outputs, reference: Outputs) -> float:
    """Return how like outputs are to those of the float model: 1 if they are the same.

    This is the mean cosine similarity of the samples. Among several outputs, or channels, the largest numbers would
    decide about that alone: boxes in pixels hide what happens to scores. So each group of channels of one scale is also
    compared separately, over all samples. Its likeness is its cosine similarity times the ratio of its lengths. So
    scores that are all too low are not like those of the float model. The least value counts.

    Raises
    ------
    ModelBuildError
        If outputs differ in shape, as those that depend on the data may.
    """
    values = [float(np.mean(cosines(outputs, reference)))]
    groups = _groups(reference)
    if len(groups) > 1:
        values += [_agreement(_members(outputs, group), _members(reference, group)) for group in groups]
    return min(values)


@dataclass(frozen=True)
class _Group:
    """Channels of an output: the places along an axis, or all if there is none."""

    output: int
    axis: int | None = None
    places: tuple[int, ...] = ()


def _groups(reference: Outputs) -> list[_Group]:
    """Return the groups of channels that have one scale each, of all outputs that are float."""
    found: list[_Group] = []
    for output in range(len(reference[0])):
        arrays = [batch[output] for batch in reference]
        if arrays[0].dtype.kind != "f" or not any(array.size for array in arrays):
            continue
        finest = [_Group(output)]
        if arrays[0].ndim > _CLASSIFIED:
            for axis in range(1, arrays[0].ndim):
                split = _split(arrays, output, axis)
                finest = split if len(split) > len(finest) else finest
        found += finest
    return found


def _split(arrays: Sequence[Array], output: int, axis: int) -> list[_Group]:
    """Return the groups along an axis, if there are several."""
    if len({array.shape[axis] for array in arrays}) > 1:
        return []
    others = tuple(k for k in range(arrays[0].ndim) if k != axis)
    filled = [array.astype(np.float64) for array in arrays if array.size]
    squares = np.sum([np.sum(np.square(array), axis=others) for array in filled], axis=0)
    peaks = np.max([np.max(np.abs(array), axis=others) for array in filled], axis=0)
    order = np.argsort(squares, kind="stable")
    groups: list[list[int]] = []
    for place in order.tolist():
        apart = groups and squares[place] > SCALES**2 * squares[groups[-1][-1]]
        # Where no value would count as found, errors of any size change nothing: these go with the next.
        if apart and max(peaks[k] for k in groups[-1]) >= FOUND:
            groups.append([place])
        elif groups:
            groups[-1].append(place)
        else:
            groups.append([place])
    return [_Group(output, axis, tuple(sorted(group))) for group in groups] if len(groups) > 1 else []


def _members(outputs: Outputs, group: _Group) -> Array:
    arrays = [batch[group.output].astype(np.float64) for batch in outputs]
    if group.axis is not None:
        arrays = [np.take(array, group.places, axis=group.axis) for array in arrays]
    return np.concatenate([array.reshape(-1) for array in arrays])


def _agreement(ours: Array, theirs: Array) -> float:
    """Return the cosine similarity of two vectors, times the ratio of their lengths."""
    longest = max(float(ours @ ours), float(theirs @ theirs))
    return float(ours @ theirs) / longest if longest else 1.0


def _cosines(a: list[Array], b: list[Array]) -> Array:
    left, right = _rows(a), _rows(b)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = np.sum(left * right, axis=1)
    both_zero = (norms == 0) & np.all(left == right, axis=1)
    return np.where(both_zero, 1.0, products / np.where(norms == 0, 1.0, norms))


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _rows(arrays: list[Array]) -> Array:
    return np.concatenate([a.reshape(a.shape[0], -1).astype(np.float64) for a in arrays], axis=1)
