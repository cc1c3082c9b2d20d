"""Postprocessing: how it is described, and its function."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from aws_cdk import Duration

from cdk_inference.capacity.strategy import ON_DEMAND
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.deprecations import renamed_props
from cdk_inference.common.props.durations import days_text
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_above_zero, check_choice
from cdk_inference.errors import ModelBuildError, PropError
from cdk_inference.model.recipe.heads import MaskHead, YoloHead
from cdk_inference.stages.base import FunctionOptions, StageFunction
from cdk_inference.stages.class_scores import choose_activation
from cdk_inference.stages.prototypes import check_prototypes
from cdk_inference.stages.stage_code import (
    BUILTIN,
    LABELS_FILE,
    PICTURE,
    PROTOTYPES_FILE,
    SECONDS,
    STOP,
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    StageCode,
    read_lines,
    shape_text,
    user_code,
)
from cdk_inference.stages.tokenizer import check_decodes, check_stop, tokenizer_file
from cdk_inference.storage.work_bucket import MASKS, TENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from constructs import Construct

    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.recipe.heads import DetectionHead, Head
    from cdk_inference.model.recipe.sources import Download, HubFile, PackageFile
    from cdk_inference.model.recipe.tensors import TensorSpec
    from cdk_inference.model.records.manifest import Distribution
    from cdk_inference.stages.class_scores import Activation
    from cdk_inference.storage.results import IResultsTable
    from cdk_inference.storage.work_bucket import IWorkBucket

_TOP = 5

_RELEASED, _LOWEST_RELEASE = 0.15, 0.01
"""A segment ends with scores that are this far below the threshold, but never below the second, as in silero-vad."""

_LONGEST_SECONDS = 60

_MOST_LISTED = 1_000  # fit a row

MASKS_ADDRESS = "MASKS_ADDRESS"
"""The variable that tells a function where masks go."""

_MOST_MASK_CLASSES = 255  # of a palette, in which the last colour stands for what the model did not see


@check_props
@dataclass(frozen=True)
class Postprocess:
    """How the model's outputs become a prediction; made by one of the class methods."""

    code: StageCode
    classes: int | None = None
    """How many classes it has names for, if that matters."""
    output: str | None = None
    """The output that it looks at; ``None`` for the only one, or for all."""
    vector: bool = False
    """Whether it takes that output for a vector."""
    numbers: int | None = None
    """How many numbers the vector must have, if that matters."""
    head: Head | None = None
    """The form of the outputs, if it finds boxes in them, or the class of each pixel."""
    needs: tuple[str, ...] = ()
    """Names of values that preprocessing must keep for it."""
    makes_masks: bool = False
    """Whether it writes masks into the work bucket."""
    tokens: int | None = None
    """How many tokens its vocabulary has, if it makes text of them."""
    windows: bool = False
    """Whether it takes that output for scores of windows."""
    activation: Activation | None = None
    """How classes get scores, if that is not left to the values of the output."""
    seen: Mapping[str, Distribution] = field(default_factory=dict)
    """The values of each output over the evaluation data."""

    @classmethod
    def classification(
        cls,
        *,
        labels: Sequence[str] | Path | str,
        top: int | None = None,
        activation: Activation | None = None,
        output: str | None = None,
    ) -> Postprocess:
        """Store the best classes, with their labels and scores.

        A model with one output for two classes gives the score of the second one.

        Parameters
        ----------
        labels
            Names of the classes in the order of the model's output, as a list or the path of a file with one a line.
        top
            How many classes to store, at most 1,000. Default: 5, or all of them if there are fewer.
        activation
            ``softmax`` for logits if one class is right, ``sigmoid`` for logits of classes that do not exclude each
            other, ``none`` for scores from 0 to 1. Default: the one that fits the values that the build saw.
        output
            The model's output that holds the classes. Default: the only one.

        Raises
        ------
        PropError
            The file does not exist, there are no labels, or `top` is out of range. Or the activation is unknown.
        """
        names, options, sources = _labels(labels)
        if activation is not None:
            check_choice(("softmax", "sigmoid", "none"), activation=activation)
        options |= {"activation": activation or "softmax", "output": output}
        options["top"] = _top(top, len(names), "classes")
        code = StageCode(
            f"{BUILTIN}.classification:classification_postprocessor",
            options=options,
            sources=sources,
            runtime_requirements="postprocess",
        )
        return cls(code, classes=len(names), output=output, activation=activation)

    @classmethod
    def detection(
        cls,
        *,
        labels: Sequence[str] | Path | str,
        head: DetectionHead | None = None,
        min_score: float = 0.25,
        max_detections: int = 100,
    ) -> Postprocess:
        """Store labelled boxes as ``detections``, best first, in pixels of the picture, and ``count``, how many.

        Preprocessing must keep where in the picture is what the model saw, as `Preprocess.image` does.

        Parameters
        ----------
        labels
            Names of the classes in the order of the model's output, as a list or the path of a file with one a line.
        head
            The form of the model's outputs: a `YoloHead`, `DetrHead`, `EndToEndHead` or `NmsHead`. Default:
            ``YoloHead()``.
        min_score
            Boxes with a lower score are left out, above 0 and at most 1.
        max_detections
            How many boxes to store at most, 1 to 1,000.

        Raises
        ------
        PropError
            The file does not exist, there are no labels, or a value is out of range.
        """
        names, options, sources = _labels(labels)
        if not 0 < min_score <= 1:
            raise PropError(f"min_score must be above 0 and at most 1, got {min_score}")
        if not 1 <= max_detections <= _MOST_LISTED:
            raise PropError(f"max_detections must be 1 to {_MOST_LISTED:,}, got {max_detections}")
        code = StageCode(
            f"{BUILTIN}.detection:detection_postprocessor",
            options={**options, "min_score": min_score, "max_detections": max_detections},
            sources=sources,
            runtime_requirements="postprocess",
        )
        return cls(code, classes=len(names), head=head if head is not None else YoloHead(), needs=(PICTURE,))

    @classmethod
    def segmentation(
        cls,
        *,
        labels: Sequence[str] | Path | str,
        head: MaskHead | None = None,
        size: Literal["picture", "model"] = "picture",
    ) -> Postprocess:
        """Store a mask as a PNG in the work bucket, its address as ``mask``, and the share of each class as ``areas``.

        Preprocessing must keep where in the picture is what the model saw, as `Preprocess.image` does.

        Parameters
        ----------
        labels
            Names of the classes in the order of the model's output, at most 255. A list, or the path of a file with one
            a line.
        head
            The form of the model's outputs. Default: ``MaskHead()``.
        size
            ``picture`` for a mask of the size of the picture, ``model`` for one of the size of the model's output.

        Raises
        ------
        PropError
            The file does not exist, or there are no labels, or too many.
        """
        names, options, sources = _labels(labels)
        if len(names) > _MOST_MASK_CLASSES:
            raise PropError(f"labels must be at most {_MOST_MASK_CLASSES} for a mask, got {len(names)}")
        check_choice(("picture", "model"), size=size)
        code = StageCode(
            f"{BUILTIN}.segmentation:segmentation_postprocessor",
            options={**options, "size": size},
            sources=sources,
            runtime_requirements="postprocess",
        )
        chosen = head if head is not None else MaskHead()
        return cls(code, classes=len(names), head=chosen, needs=(PICTURE,), makes_masks=True)

    @classmethod
    def embedding(
        cls,
        *,
        output: str | None = None,
        normalize: bool = False,
        encoding: Literal["binary", "list"] = "binary",
    ) -> Postprocess:
        """Store a vector as ``embedding``, and how many numbers it has as ``dimensions``.

        Parameters
        ----------
        output
            The model's output that holds the vector. Default: the only one.
        normalize
            Whether to scale it to length 1, for models that do not do so themselves.
        encoding
            ``binary`` stores float32 numbers, little-endian; ``list`` a list of numbers, which takes two to three times
            as many bytes, and as many write units.

        Raises
        ------
        PropError
            The encoding is unknown.
        """
        check_choice(("binary", "list"), encoding=encoding)
        code = StageCode(
            f"{BUILTIN}.embedding:embedding_postprocessor",
            options={"output": output, "normalize": normalize, "encoding": encoding},
            runtime_requirements="postprocess",
        )
        return cls(code, output=output, vector=True)

    @classmethod
    def nearest(
        cls,
        *,
        prototypes: Path | str,
        labels: Sequence[str] | Path | str,
        top: int | None = None,
        scale: float | None = None,
        output: str | None = None,
    ) -> Postprocess:
        """Store the labels whose vectors are closest to the model's, by their cosine similarity (zero-shot labels).

        Each has a ``score``, and its ``similarity``, from -1 to 1.

        Parameters
        ----------
        prototypes
            The path of a ``.npy`` file with an array (labels, numbers) of floats. Each label has a vector, such as the
            embedding of a text that describes it. The file becomes part of the function's package.
        labels
            Their names in this order, as a list or the path of a file with one a line.
        top
            How many labels to store, at most 1,000. Default: 5, or all of them if there are fewer.
        scale
            Makes scores that sum up to 1: the softmax of the similarities, multiplied with this, such as the 100 of
            CLIP. Default: a score is the similarity.
        output
            The model's output that holds the vector. Default: the only one.

        Raises
        ------
        PropError
            A file does not exist, or there is not a vector with a direction for each label. Or a value is out of range.
        """
        names, options, sources = _labels(labels)
        listed = _top(top, len(names), "labels")
        if scale is not None:
            check_above_zero(scale=scale)
        path = Path(prototypes)
        numbers = check_prototypes(path, len(names))
        code = StageCode(
            f"{BUILTIN}.nearest:nearest_postprocessor",
            options={
                **options,
                "prototypes_file": PROTOTYPES_FILE,
                "top": listed,
                "scale": scale,
                "output": output,
            },
            sources={**sources, PROTOTYPES_FILE: path},
            runtime_requirements="postprocess",
        )
        return cls(code, output=output, vector=True, numbers=numbers)

    @classmethod
    def text(
        cls,
        *,
        vocabulary: str | Path | None = None,
        tokenizer: str | Path | Download | HubFile | PackageFile | None = None,
        output: str = "tokens",
        stop: Sequence[str] = (),
        item_stop: bool = False,
    ) -> Postprocess:
        """Store the text of a decoder's tokens as ``text``, with ``score`` if the model has an output ``scores``.

        If it has an output ``lengths``, the tokens after them do not count.

        Parameters
        ----------
        vocabulary
            Path of a file with one token a line: its number is that of the line, from 0. Tokens in angle brackets, such
            as ``</s>``, are left out, and ``▁`` is a space.
        tokenizer
            The model's ``tokenizer.json`` in place of a vocabulary: a path, or where it comes from. Its tokens are
            byte-level ones, as those of GPT-2, Llama 3 and Qwen, or SentencePiece's, as those of Llama 2, Mistral,
            Gemma and T5. Special tokens are left out.
        output
            The model's output that holds the tokens. Default: ``"tokens"``, as decoders have it.
        stop
            Strings before the first of which the text ends, at most 8. In a fused function, a model with a tokenizer
            and without beams stops there. Elsewhere, it still writes what follows. Default: none.
        item_stop
            Whether an object may name more such strings, as ``"stop": ["User:"]`` next to its text. Your own
            preprocessing keeps them as ``stop``. Default: it may not.

        Raises
        ------
        PropError
            The file does not exist or has no tokens, its tokens are of another kind, or a string is empty.
        """
        if (vocabulary is None) is (tokenizer is None):
            raise PropError("text must have either a vocabulary or a tokenizer; pass the one that the model has")
        check_stop(stop)
        needs = (STOP,) if item_stop else ()
        if vocabulary is not None:
            return replace(cls._transcript(vocabulary, output, None, stop), needs=needs)
        path = tokenizer_file(tokenizer)  # type: ignore[arg-type] # one of them is given
        tokens = check_decodes(path)
        code = _transcript_code(TOKENIZER_FILE, path, output, None, stop)
        return cls(code, output=output, tokens=tokens, needs=needs)

    @classmethod
    def ctc(cls, *, vocabulary: str | Path, blank: int = 0, output: str = "logits") -> Postprocess:
        """Store the text of a recognizer that scores tokens for each frame (CTC) as ``text``.

        The best token of each frame counts: repeated ones once, and blanks not at all.

        Parameters
        ----------
        vocabulary
            As that of `text`.
        blank
            The token that stands for none. Default: 0.
        output
            The model's output that holds the scores, or the best token, of each frame. Default: ``"logits"``.

        Raises
        ------
        PropError
            The file does not exist, or the blank is not one of its tokens.
        """
        return cls._transcript(vocabulary, output, blank)

    @classmethod
    def _transcript(
        cls, vocabulary: str | Path, output: str, blank: int | None, stop: Sequence[str] = ()
    ) -> Postprocess:
        path = Path(vocabulary)
        if not read_lines(path, "vocabulary"):
            raise PropError("vocabulary must hold every token of the model, got none")
        # As the function reads it: other separators of lines may be tokens.
        tokens = path.read_text("utf-8").removesuffix("\n").count("\n") + 1
        if blank is not None and not 0 <= blank < tokens:
            raise PropError(f"blank must be 0 to {tokens - 1}, a token of the vocabulary, got {blank}")
        code = _transcript_code(VOCABULARY_FILE, path, output, blank, stop)
        return cls(code, output=output, tokens=tokens)

    @classmethod
    def segments(
        cls,
        *,
        window_seconds: float,
        threshold: float = 0.5,
        release: float | None = None,
        min_seconds: float = 0.25,
        min_gap: float = 0.1,
        pad: float = 0.03,
        output: str | None = None,
    ) -> Postprocess:
        """Store where in a recording someone speaks as ``segments``, from a score for each of its windows.

        A segment has ``start`` and ``end`` in seconds. ``count`` is how many there are, of which a row lists 1,000, and
        ``seconds`` how long they are together. Preprocessing must keep how long the recording is, as `Preprocess.audio`
        does. It is what silero-vad does with its scores, with the same defaults.

        Parameters
        ----------
        window_seconds
            How far the windows are apart, such as 512 / 16,000.
        threshold
            A segment begins with a score of at least this, from 0 to 1.
        release
            It ends with scores below this, at most the threshold. Default: 0.15 less than the threshold, at least 0.01.
        min_seconds
            Segments of no more seconds, before padding, are left out.
        min_gap
            It ends only if no score reaches the threshold for this many seconds.
        pad
            Seconds that a segment is extended by at both ends, or up to the middle of a shorter gap.
        output
            The model's output that holds the scores, float of shape ``("batch", windows)``. Default: the only one.

        Raises
        ------
        PropError
            A value is out of range.
        """
        check_above_zero(window_seconds=window_seconds)
        if not 0 < threshold <= 1:
            raise PropError(f"threshold must be above 0 and at most 1, got {threshold:g}")
        lower = max(threshold - _RELEASED, min(threshold, _LOWEST_RELEASE)) if release is None else release
        if not 0 < lower <= threshold:
            raise PropError(f"release must be above 0 and at most the threshold, {threshold:g}, got {lower:g}")
        for name, value in (("min_seconds", min_seconds), ("min_gap", min_gap), ("pad", pad)):
            if not 0 <= value <= _LONGEST_SECONDS:
                raise PropError(f"{name} must be 0 to {_LONGEST_SECONDS} seconds, got {value:g}")
        code = StageCode(
            f"{BUILTIN}.segments:segments_postprocessor",
            options={
                "window_seconds": window_seconds,
                "threshold": threshold,
                "release": lower,
                "min_seconds": min_seconds,
                "min_gap": min_gap,
                "pad": pad,
                "max_segments": _MOST_LISTED,
                "output": output,
            },
            runtime_requirements="postprocess",
        )
        return cls(code, output=output, needs=(SECONDS,), windows=True)

    @classmethod
    def outputs(cls) -> Postprocess:
        """Store the outputs as they are, as lists of numbers: for small outputs."""
        return cls(
            StageCode(f"{BUILTIN}.outputs:outputs_postprocessor", options={}, runtime_requirements="postprocess")
        )

    @classmethod
    def function(
        cls,
        entry: str | Path,
        *,
        requirements: Sequence[str] | Path | str = (),
        sources: Sequence[str | Path] = (),
    ) -> Postprocess:
        """Use your own ``postprocess(outputs, item) -> dict``; the parameters are those of `Preprocess.function`."""
        return cls(
            user_code(entry, requirements, sources, takes=("outputs", "item"), runtime_requirements="postprocess")
        )

    def fitting(self, distributions: Mapping[str, Distribution]) -> Postprocess:
        """Return the stage for a model whose outputs have these values, by name, as its manifest tells.

        A pipeline does so. Without it, classes get their scores by a softmax unless you choose.
        """
        return self if self.classes is None else replace(self, seen=distributions)

    def bind(self, outputs: Sequence[TensorSpec]) -> StageCode:
        """Check the stage against the outputs of the model, and return its code.

        Raises
        ------
        PropError
            There are not as many labels as classes, or several outputs may be meant. Or the outputs have another form
            than the stage takes, or values that leave open how they become scores.
        """
        if self.head is not None:
            return self._with_head(self.head, outputs)
        if self.vector:
            spec = _one_output(outputs, self.output, "the vector")
            if len(spec.shape) != 2 or not spec.dtype.startswith("float"):  # noqa: PLR2004
                raise PropError(
                    f"output must be a vector of floats for each object, got '{spec.name}', which is {spec.dtype} "
                    f"{shape_text(spec.shape)}; name another output, or bring your own function"
                )
            width = spec.shape[1]
            if self.numbers is not None and not isinstance(width, str) and width != self.numbers:
                raise PropError(
                    f"prototypes must be vectors of {width} numbers, as the model's output '{spec.name}', got "
                    f"{self.numbers}; make them with the same model"
                )
        if self.windows:
            spec = _one_output(outputs, self.output, "the scores")
            if not spec.dtype.startswith("float") or not (len(spec.shape) == 2 or spec.shape[2:] == (1,)):  # noqa: PLR2004
                raise PropError(
                    "output must be a score for each window, float32 of shape ('batch', windows), got "
                    f"'{spec.name}', which is {spec.dtype} {shape_text(spec.shape)}; name another output, or bring "
                    "your own function"
                )
        if self.tokens is not None:
            spec = _one_output(outputs, self.output, "the tokens")
            scored = len(spec.shape) == 3 and spec.dtype.startswith("float")  # noqa: PLR2004 - frames and tokens
            if not scored and (len(spec.shape) != 2 or spec.dtype not in ("int32", "int64")):  # noqa: PLR2004
                raise PropError(
                    f"output must be tokens for each object, int64 of shape ('batch', places), got '{spec.name}', "
                    f"which is {spec.dtype} {shape_text(spec.shape)}; name another output, or bring your own function"
                )
            width = spec.shape[-1]
            if scored and not isinstance(width, str) and width != self.tokens:
                raise PropError(
                    f"vocabulary must have one line for each of the {width} tokens of the model's output "
                    f"'{spec.name}', in order, got {self.tokens}"
                )
        if self.classes is not None:
            spec = _one_output(outputs, self.output, "the classes")
            chosen = choose_activation(self.activation, spec, self.classes, self.seen.get(spec.name))
            return replace(self.code, options={**(self.code.options or {}), "activation": chosen})
        return self.code

    def _with_head(self, head: Head, outputs: Sequence[TensorSpec]) -> StageCode:
        try:
            layout = head.layout(outputs, self.classes)
        except ModelBuildError as error:
            raise PropError(str(error)) from None
        if layout.classes not in (None, self.classes):
            raise PropError(
                f"labels must have one name for each of the {layout.classes} classes of the model's outputs, in order, "
                f"got {self.classes}"
            )
        return replace(self.code, options={**(self.code.options or {}), **layout.options})


@check_props
@renamed_props(result_ttl_days=("result_ttl", Duration.days))
class PostprocessFunction(StageFunction):
    """Turns the model's outputs into predictions, and writes a row for each object.

    Parameters
    ----------
    stage
        How the outputs for one object become a prediction.
    model
        The model that gives the outputs.
    work
        Where large tensors are read, and masks are written.
    results
        The table; the function may put rows.
    result_ttl
        The time after which DynamoDB deletes a row. Default: rows stay.
    memory_size
        Default: 1,024 MiB.
    timeout
        Default: 30 seconds.
    capacity
        Where environments come from. Default: Lambda makes them on demand.
    **options
        As those of `StageFunction`.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        stage: Postprocess,
        model: ModelArtifact,
        work: IWorkBucket,
        results: IResultsTable,
        result_ttl: Duration | None = None,
        memory_size: int = 1024,
        timeout: Duration | None = None,
        capacity: CapacityStrategy = ON_DEMAND,
        **options: Unpack[FunctionOptions],
    ) -> None:
        code = stage.fitting(model.manifest.distributions).bind(model.outputs)
        super().__init__(
            scope,
            id,
            package=code.package("inference_runtime.handlers.postprocess.handler"),
            description=f"stores what {model.manifest.name} says",
            environment={
                **code.environment(),
                **recording_environment(results, result_ttl),
                "WORK_BUCKET": work.bucket.bucket_name,
            },
            memory_size=memory_size,
            timeout=timeout if timeout is not None else Duration.seconds(30),
            capacity=capacity,
            **options,
        )
        add_metadata(self.function, "function", stage=id, table=results.table.table_name)
        work.grant_read(self)
        results.grant_write_rows(self)
        patterns = [TENSORS]
        if stage.makes_masks:
            work.grant_write_masks(self)
            self.add_variables({MASKS_ADDRESS: work.masks_address})
            patterns.append(MASKS)
        acknowledgments.objects_under(self.role, work.bucket, *patterns)


def recording_environment(results: IResultsTable, result_ttl: Duration | None) -> dict[str, str]:
    """Return the variables of a handler that writes rows.

    Raises
    ------
    PropError
        Rows would be deleted at once.
    """
    return {"RESULTS_TABLE": results.table.table_name, **row_environment(results, result_ttl)}


def row_environment(results: IResultsTable, result_ttl: Duration | None) -> dict[str, str]:
    """Return the variables of a handler that makes rows for a table, without its name.

    Raises
    ------
    PropError
        Rows would be deleted at once.
    """
    return {
        **({} if result_ttl is None else {"RESULT_TTL_DAYS": days_text("result_ttl", result_ttl)}),
        **({"LABEL_INDEX": "label"} if "label" in results.indexes else {}),
    }


def _transcript_code(name: str, path: Path, output: str, blank: int | None, stop: Sequence[str]) -> StageCode:
    """Return the code that makes text of tokens, with the file that knows them under a name."""
    return StageCode(
        f"{BUILTIN}.transcript:transcript_postprocessor",
        options={
            "vocabulary_file": name,
            "output": output,
            "blank": blank,
            **({"stop": list(stop)} if stop else {}),
        },
        sources={name: path},
        runtime_requirements="postprocess",
    )


def _one_output(outputs: Sequence[TensorSpec], name: str | None, what: str) -> TensorSpec:
    named = [spec for spec in outputs if name in (None, spec.name)]
    if len(named) != 1:
        raise PropError(
            f"output must be one of the model's outputs, {', '.join(spec.name for spec in outputs)}, got {name!r}; "
            f"name the one that holds {what}"
        )
    return named[0]


def _top(top: int | None, count: int, what: str) -> int:
    """Return how many of the classes or labels a row lists."""
    if top is None:
        return min(_TOP, count)
    if not 1 <= top <= min(count, _MOST_LISTED):
        bound = f"{count}, the number of {what}" if count <= _MOST_LISTED else f"{_MOST_LISTED:,}, which fit a row"
        raise PropError(f"top must be 1 to {bound}, got {top}")
    return top


def _labels(labels: Sequence[str] | Path | str) -> tuple[list[str], dict[str, object], dict[str, Path]]:
    """Return the names of the classes, and the options and sources by which the runtime gets them."""
    options: dict[str, object]
    if isinstance(labels, str | Path):
        path = Path(labels)
        names, options, sources = read_lines(path, "labels"), {"labels_file": LABELS_FILE}, {LABELS_FILE: path}
    else:
        names = list(labels)
        options, sources = {"labels": names}, {}
    if not names:
        raise PropError("labels must hold the name of every class, got none")
    return names, options, sources
