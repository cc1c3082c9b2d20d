"""The forms in which models say what is where in a picture: for the gate of a model, and for postprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.recipe.checks import check, check_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.recipe.tensors import TensorSpec

_SIDES = 4
_WITH_SCORE_AND_CLASS = 6


@dataclass(frozen=True)
class BoxLayout:
    """Where a detector's outputs have boxes, scores and classes.

    Attributes
    ----------
    head
        The form as JSON: `kind`, and the parameters of what reads it.
    classes
        How many classes the outputs have; None if they do not tell.
    normalized
        Whether boxes are fractions of the sides of the model's input, not pixels of it.
    """

    head: dict[str, object]
    classes: int | None
    normalized: bool

    @property
    def options(self) -> dict[str, object]:
        """The options of a stage of postprocessing."""
        return {"head": self.head, "normalized": self.normalized}


@dataclass(frozen=True)
class YoloHead:
    """The raw output of a YOLO: for each of some thousand places a box and the scores of all classes.

    The output is (batch, 4 + classes, places), as YOLOv8, v9, v11 and v12 have it, or (batch, places, 4 + classes). A
    box is its centre, width and height. Boxes that overlap a better one of their class are dropped (greedy
    non-maximum suppression).

    Parameters
    ----------
    output
        Name of the output. Default: the only one.
    objectness
        Whether a score for any object comes before those of the classes, as in YOLOv5, v7 and YOLOX. It is multiplied
        with them.
    normalized
        Whether boxes are fractions of the sides of the model's input, not pixels of it.
    iou
        Boxes of a class overlap if their intersection is a larger share of their union than this, in (0, 1].

    Raises
    ------
    ModelBuildError
        A value is out of range.
    """

    output: str | None = None
    objectness: bool = False
    normalized: bool = False
    iou: float = 0.45
    kind: Literal["yolo"] = "yolo"

    def __post_init__(self) -> None:
        check_number("head.iou", self.iou, "above 0 and at most 1", above=0, high=1)

    def layout(self, outputs: Sequence[TensorSpec], classes: int | None = None) -> BoxLayout:
        """Return where the outputs have boxes, scores and classes.

        Parameters
        ----------
        outputs
            The outputs of the model.
        classes
            How many classes it has, if that is known.

        Raises
        ------
        ModelBuildError
            There is no such output, or its shape is another.
        """
        spec = _output(outputs, self.output, "output")
        axes = spec.shape[1:]
        fixed = [axis for axis, size in enumerate(axes) if isinstance(size, int)]
        least = _SIDES + self.objectness + 1
        if len(axes) != 2 or not fixed or not spec.dtype.startswith("float"):  # noqa: PLR2004
            raise _unfit(spec, "floats (batch, 4 + classes, places) or (batch, places, 4 + classes)")
        # There are more places than classes, but for the smallest inputs.
        channels = min(fixed, key=lambda axis: (axes[axis] != least - 1 + (classes or 0), axes[axis]))
        found = int(axes[channels]) - least + 1
        if found < 1:
            raise _unfit(spec, f"at least {least} numbers for each place")
        options = {"output": spec.name, "channels": channels, "objectness": self.objectness, "iou": self.iou}
        return BoxLayout({"kind": self.kind, **options}, found, self.normalized)


@dataclass(frozen=True)
class EndToEndHead:
    """An output (batch, boxes, 6) of a graph that chooses boxes itself, as YOLOv10, YOLO26 and exports with NMS have.

    Each row is the left, top, right and bottom edge, the score and the class. Rows beyond those that were found have
    the score 0.

    Parameters
    ----------
    output
        Name of the output. Default: the only one.
    normalized
        Whether boxes are fractions of the sides of the model's input, not pixels of it.
    """

    output: str | None = None
    normalized: bool = False
    kind: Literal["end_to_end"] = "end_to_end"

    def layout(self, outputs: Sequence[TensorSpec], classes: int | None = None) -> BoxLayout:  # noqa: ARG002 - heads are asked alike
        """Return where the output has boxes, scores and classes; see `YoloHead.layout`."""
        spec = _output(outputs, self.output, "output")
        if len(spec.shape) != 3 or spec.shape[2] != _WITH_SCORE_AND_CLASS:  # noqa: PLR2004
            raise _unfit(spec, "(batch, boxes, 6)")
        return BoxLayout({"kind": self.kind, "output": spec.name}, None, self.normalized)


@dataclass(frozen=True)
class NmsHead:
    """Outputs for boxes, scores and classes, of a graph that chooses boxes itself, such as an SSD of TensorFlow.

    Parameters
    ----------
    boxes
        Name of the output (batch, boxes, 4).
    scores
        Name of the output (batch, boxes).
    classes
        Name of the output (batch, boxes).
    corners
        The order of a box's edges: ``"xyxy"`` for left, top, right and bottom, ``"yxyx"`` for top, left, bottom and
        right, as TensorFlow has them.
    normalized
        Whether boxes are fractions of the sides of the model's input, not pixels of it.
    first_class
        The class that the first label names, such as 1 where 0 is the background.

    Raises
    ------
    ModelBuildError
        A value is out of range.
    """

    boxes: str = "boxes"
    scores: str = "scores"
    classes: str = "labels"
    corners: Literal["xyxy", "yxyx"] = "xyxy"
    normalized: bool = False
    first_class: int = 0
    kind: Literal["nms"] = "nms"

    def __post_init__(self) -> None:
        check(self.corners in ("xyxy", "yxyx"), "head.corners", self.corners, "'xyxy' or 'yxyx'")
        whole = isinstance(self.first_class, int) and not isinstance(self.first_class, bool) and self.first_class >= 0
        check(whole, "head.first_class", self.first_class, "a whole number from 0")

    def layout(self, outputs: Sequence[TensorSpec], classes: int | None = None) -> BoxLayout:  # noqa: ARG002 - heads are asked alike
        """Return where the outputs have boxes, scores and classes; see `YoloHead.layout`."""
        found = _output(outputs, self.boxes, "boxes")
        if len(found.shape) != 3 or found.shape[2] != _SIDES:  # noqa: PLR2004
            raise _unfit(found, "(batch, boxes, 4)")
        for field in ("scores", "classes"):
            spec = _output(outputs, getattr(self, field), field)
            if len(spec.shape) != 2:  # noqa: PLR2004
                raise _unfit(spec, "(batch, boxes)")
        options = {name: getattr(self, name) for name in ("boxes", "scores", "classes", "corners", "first_class")}
        return BoxLayout({"kind": self.kind, **options}, None, self.normalized)


@dataclass(frozen=True)
class DetrHead:
    """Outputs of a transformer for detection (DETR and its successors): logits and a box for each query.

    A box is its centre, width and height, as fractions of the sides of the model's input.

    Parameters
    ----------
    logits
        Name of the output (batch, queries, classes).
    boxes
        Name of the output (batch, queries, 4).
    activation
        ``"softmax"``, with a last class for no object, as DETR has it; or ``"sigmoid"``, as Deformable DETR and
        RT-DETR have it.

    Raises
    ------
    ModelBuildError
        The activation is unknown.
    """

    logits: str = "logits"
    boxes: str = "pred_boxes"
    activation: Literal["softmax", "sigmoid"] = "softmax"
    kind: Literal["detr"] = "detr"

    def __post_init__(self) -> None:
        check(self.activation in ("softmax", "sigmoid"), "head.activation", self.activation, "'softmax' or 'sigmoid'")

    def layout(self, outputs: Sequence[TensorSpec], classes: int | None = None) -> BoxLayout:  # noqa: ARG002 - heads are asked alike
        """Return where the outputs have boxes, scores and classes; see `YoloHead.layout`."""
        logits, boxes = _output(outputs, self.logits, "logits"), _output(outputs, self.boxes, "boxes")
        if len(boxes.shape) != 3 or boxes.shape[2] != _SIDES:  # noqa: PLR2004
            raise _unfit(boxes, "(batch, queries, 4)")
        width = logits.shape[2] if len(logits.shape) == 3 else None  # noqa: PLR2004
        most = 1 if self.activation == "softmax" else 0
        if not isinstance(width, int) or width <= most:
            raise _unfit(logits, f"(batch, queries, classes) with more than {most} classes")
        options = {name: getattr(self, name) for name in ("logits", "boxes", "activation")}
        return BoxLayout({"kind": self.kind, **options}, width - most, normalized=True)


DetectionHead = YoloHead | EndToEndHead | NmsHead | DetrHead
"""The form of a detector's outputs."""


@dataclass(frozen=True)
class MaskLayout:
    """Where a model's outputs have the class of each pixel.

    Attributes
    ----------
    output
        Name of the output.
    axis
        The axis of the classes, without the batch; None if the output has the best class of each pixel already.
    classes
        How many classes the output has; None if it does not tell.
    threshold
        The score above which a pixel has the second of two classes; None if there are scores of each class.
    """

    output: str
    axis: int | None
    classes: int | None
    threshold: float | None = None

    @property
    def options(self) -> dict[str, object]:
        """The options of a stage of postprocessing."""
        found: dict[str, object] = {"output": self.output, "axis": self.axis}
        return found if self.threshold is None else {**found, "threshold": self.threshold}


@dataclass(frozen=True)
class MaskHead:
    """An output with the class of each pixel: scores of all classes, or whole numbers (batch, height, width).

    Parameters
    ----------
    output
        Name of the output. Default: the only one.
    channels
        Where an output of scores has its classes: ``"first"`` for (batch, classes, height, width), ``"last"`` for
        (batch, height, width, classes).
    threshold
        The score above which a pixel has the second of two classes, if the output has one score for each pixel. That is
        0.5 for probabilities, and 0 for logits. Default: there are scores of each class.

    Raises
    ------
    ModelBuildError
        The place of the channels is unknown, or the threshold is not finite.
    """

    output: str | None = None
    channels: Literal["first", "last"] = "first"
    threshold: float | None = None
    kind: Literal["mask"] = "mask"

    def __post_init__(self) -> None:
        check(self.channels in ("first", "last"), "head.channels", self.channels, "'first' or 'last'")
        if self.threshold is not None:
            check_number("head.threshold", self.threshold, "a number from -1e9 to 1e9", low=-1e9, high=1e9)

    def layout(self, outputs: Sequence[TensorSpec], classes: int | None = None) -> MaskLayout:  # noqa: ARG002 - heads are asked alike
        """Return where the outputs have the class of each pixel.

        Raises
        ------
        ModelBuildError
            There is no such output, or its shape is another.
        """
        spec = _output(outputs, self.output, "output")
        axes = spec.shape[1:]
        if len(axes) == 2 and not spec.dtype.startswith("float"):  # noqa: PLR2004
            return MaskLayout(spec.name, None, None)
        axis = 0 if self.channels == "first" else 2
        width = axes[axis] if len(axes) == 3 else None  # noqa: PLR2004
        if self.threshold is not None:
            if not spec.dtype.startswith("float") or not (len(axes) == 2 or width == 1):  # noqa: PLR2004
                raise _unfit(spec, "floats with one score for each pixel for a MaskHead with a threshold")
            return MaskLayout(spec.name, axis if width == 1 else None, 2, self.threshold)
        if spec.dtype.startswith("float") and (len(axes) == 2 or width == 1):  # noqa: PLR2004
            raise _unfit(spec, "scores of each class, unless the MaskHead has a threshold (0.5, or 0 for logits)")
        if not isinstance(width, int) or width < 2 or not spec.dtype.startswith("float"):  # noqa: PLR2004
            scores = "(batch, classes, height, width)" if axis == 0 else "(batch, height, width, classes)"
            raise _unfit(spec, f"floats {scores} of two or more classes, or whole numbers (batch, height, width)")
        return MaskLayout(spec.name, axis, width)


Head = YoloHead | EndToEndHead | NmsHead | DetrHead | MaskHead
"""The form of what a model says of a picture's parts."""


def _output(outputs: Sequence[TensorSpec], name: str | None, field: str) -> TensorSpec:
    named = [spec for spec in outputs if name in (None, spec.name)]
    if len(named) != 1:
        raise ModelBuildError(
            f"head.{field} must be one of the model's outputs, {', '.join(spec.name for spec in outputs)}, got {name!r}"
            "; name the right one"
        )
    return named[0]


def _unfit(spec: TensorSpec, expected: str) -> ModelBuildError:
    shape = "(" + ", ".join(map(str, spec.shape)) + ")"
    return ModelBuildError(
        f"head must fit the model, whose output '{spec.name}' must be {expected}, got {spec.dtype} {shape}; choose "
        "another head, or name another output"
    )
