"""Preprocessing: how it is described, and its function."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Unpack

from aws_cdk import Duration, Size

from cdk_inference.capacity.strategy import ON_DEMAND
from cdk_inference.common import acknowledgments
from cdk_inference.common.props.deprecations import renamed_props
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.sizes import bytes_text
from cdk_inference.common.props.validation import check_choice
from cdk_inference.errors import PropError
from cdk_inference.model.recipe.tensors import DTYPES, STRING
from cdk_inference.stages.base import FunctionOptions, StageFunction
from cdk_inference.stages.columns import Column
from cdk_inference.stages.longest_text import check_longest_text
from cdk_inference.stages.stage_code import (
    BUILTIN,
    PICTURE,
    SECONDS,
    STOP,
    TOKENIZER_FILE,
    StageCode,
    shape_text,
    user_code,
)
from cdk_inference.stages.tokenizer import check_prompt, tokenizer_file
from cdk_inference.storage.work_bucket import TENSORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from constructs import Construct

    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.explanations.explain import Explanation
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.project import BuiltModel
    from cdk_inference.model.recipe.sources import Download, HubFile, PackageFile
    from cdk_inference.model.recipe.tensors import TensorSpec
    from cdk_inference.storage.work_bucket import IWorkBucket
    from cdk_inference.triggers.base import ITrigger

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

AUDIO_SUFFIXES = {"wav": (".wav",), "flac": (".flac",), "ogg": (".oga", ".ogg", ".opus")}
"""The suffixes of each format of recordings."""

DEFAULT_MAX_OBJECT_BYTES = str(64 * 1024 * 1024)

TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

ANSWER_INPUTS = {"max_tokens": "int64", "temperature": "float32", "top_p": "float32", "seed": "int64"}
"""The inputs that a model that writes may have for how long its answer gets and how it is drawn, and their types."""


@check_props
@dataclass(frozen=True)
class Preprocess:
    """How the bytes of an object become the model's input; made by one of the class methods."""

    code: StageCode
    suffixes: tuple[str, ...] | None = None
    """The suffixes it can read; ``None`` if it reads anything."""
    produces: tuple[str, tuple[int | str, ...]] | None = None
    """dtype and shape, without the batch, of what it makes, where that is known beforehand."""
    tokens: tuple[int, int] | None = None
    """Bounds of a stage that makes tokens: the most of them, and the multiple that their number is rounded up to."""
    keep: tuple[str, ...] = ()
    """Names of values that it returns besides the inputs, for postprocessing and the row."""
    offers: tuple[str, ...] = ()
    """Names of values that it can keep, if postprocessing needs them."""
    columns: tuple[Column, ...] = ()
    """The columns of a record that it reads."""

    @classmethod
    def image(
        cls,
        *,
        size: int,
        resize: Literal["center_crop", "stretch", "pad"] = "center_crop",
        interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic",
        crop: float = 0.875,
        max_pixels: int = 64_000_000,
    ) -> Preprocess:
        """Decode an image into uint8 RGB of shape (size, size, 3), channels last.

        Parameters
        ----------
        size
            Height and width in pixels.
        resize
            ``center_crop`` takes the central square, ``stretch`` ignores the aspect ratio, ``pad`` adds black borders.
        interpolation
            Filter for resizing; all but ``nearest`` average over the source pixels.
        crop
            Share of the shorter side that ``center_crop`` keeps, as in the evaluation of ImageNet models.
        max_pixels
            Larger images are rejected before they are decoded.

        Raises
        ------
        PropError
            A value is out of range.
        """
        if not 1 <= size <= 4096:  # noqa: PLR2004
            raise PropError(f"size must be 1 to 4,096 pixels, got {size}")
        check_choice(("center_crop", "stretch", "pad"), resize=resize)
        check_choice(("nearest", "bilinear", "bicubic", "lanczos"), interpolation=interpolation)
        if not 0 < crop <= 1:
            raise PropError(f"crop must be above 0 and at most 1, got {crop}")
        if max_pixels < 1:
            raise PropError(f"max_pixels must be at least 1, got {max_pixels}")
        options = {
            "size": size,
            "resize": resize,
            "interpolation": interpolation,
            "crop": crop,
            "max_pixels": max_pixels,
        }
        return cls(
            StageCode(f"{BUILTIN}.image:image_preprocessor", options=options, runtime_requirements="preprocess-image"),
            suffixes=IMAGE_SUFFIXES,
            produces=("uint8", (size, size, 3)),
            offers=(PICTURE,),
        )

    @classmethod
    def json(cls, *, fields: Sequence[str | Column], dtype: str = "float32") -> Preprocess:
        """Read the fields of a JSON object, in this order, as an array of shape (len(fields),).

        A model with several inputs, or with one of strings, gets a tensor for each field. Its inputs have the fields'
        names, and shapes (batch,) or (batch, 1).

        Parameters
        ----------
        fields
            Names of fields with numbers, or a `Column` for a field with categories, with text, or that may be missing.
            A field is missing if it is null, NaN or not there.
        dtype
            The type of the array. Tensors for each field have the types of the model's inputs.

        Raises
        ------
        PropError
            The fields are not distinct names, or the dtype is not one of numbers.
        """
        columns = _columns("fields", fields, dtype)
        return cls(
            StageCode(
                f"{BUILTIN}.tabular:json_preprocessor",
                options={"fields": [column.described() for column in columns], "dtype": dtype},
            ),
            suffixes=(".json",),
            produces=(dtype, (len(columns),)),
            columns=columns,
        )

    @classmethod
    def csv(
        cls, *, columns: Sequence[str | Column], dtype: str = "float32", header: bool = True, delimiter: str = ","
    ) -> Preprocess:
        """Read the named columns of a CSV file with one row, as an array of shape (len(columns),).

        A model with several inputs, or with one of strings, gets a tensor for each column, as with `json`.

        Parameters
        ----------
        columns
            Names of columns with numbers, in the order that the model takes. Or a `Column` for one with categories,
            with text, or with values that may be missing. An empty value is missing.
        dtype
            The type of the array. Tensors for each column have the types of the model's inputs.
        header
            Whether the first line names the columns. Without, they are taken in the order of ``columns``.
        delimiter
            One character.

        Raises
        ------
        PropError
            The columns are not distinct names, the dtype is not one of numbers, or the delimiter is not one character.
        """
        described = _columns("columns", columns, dtype)
        if len(delimiter) != 1:
            raise PropError(f"delimiter must be one character, got {delimiter!r}")
        return cls(
            StageCode(
                f"{BUILTIN}.tabular:csv_preprocessor",
                options={
                    "columns": [column.described() for column in described],
                    "dtype": dtype,
                    "header": header,
                    "delimiter": delimiter,
                },
            ),
            suffixes=(".csv",),
            produces=(dtype, (len(described),)),
            columns=described,
        )

    @classmethod
    def text(
        cls,
        *,
        tokenizer: str | Path | Download | HubFile | PackageFile,
        max_length: int = 256,
        pad_to_multiple_of: int = 16,
        field: str | None = None,
        too_long: Literal["truncate", "reject"] = "truncate",
        prompt: str | None = None,
    ) -> Preprocess:
        """Turn text in UTF-8 into tokens, an array of shape (tokens,) for each input of the model.

        The inputs are those that the model has of ``input_ids``, ``attention_mask`` and ``token_type_ids``. A model
        that writes may have ``max_tokens`` and ``seed`` too, int64 of shape ``("batch",)``, and ``temperature`` and
        ``top_p``, float32. They are the members of these names of the JSON object that has the `field`. Without one,
        the number of the model counts. A seed follows from the object then: each delivery of an event has the same one.

        Parameters
        ----------
        tokenizer
            The model's ``tokenizer.json``, as Hugging Face's libraries write it: a path, or where it comes from. It
            goes into the function's package.
        max_length
            Most tokens, special ones included, 8 to 8,192: no more than the model has positions for, with those of its
            answer. The synth runs the model once on that many, 2,048 at most, and fails if it takes fewer. A model of
            more than 1 GiB is not run, nor one of a registry on a machine without onnxruntime.
        pad_to_multiple_of
            Texts are padded to the next multiple of this, which divides ``max_length``: those that come out equally
            long share a batch.
        field
            Field of a JSON object that holds the text. Default: the whole object is the text.
        too_long
            The treatment of longer texts: ``truncate`` keeps their first ``max_length`` tokens, ``reject`` rejects
            them.
        prompt
            The text that a language model reads, with ``{text}`` for the object's. It counts towards ``max_length`` and
            is never cut. A text that contains a special token of the tokenizer, such as the end of a message, is
            rejected. Default: the text alone.

        Raises
        ------
        PropError
            A value is out of range, or the file is missing or no tokenizer. Or the prompt leaves no room for a text,
            which is known where the package tokenizers is installed.
        """
        if not 8 <= max_length <= 8192:  # noqa: PLR2004
            raise PropError(f"max_length must be 8 to 8,192 tokens, got {max_length}")
        if not 1 <= pad_to_multiple_of <= max_length or max_length % pad_to_multiple_of:
            raise PropError(
                f"pad_to_multiple_of must be a divisor of max_length, {max_length}, got {pad_to_multiple_of}; change "
                "one of them"
            )
        if field == "":
            raise PropError(
                "field must name the field of the JSON object that holds the text, got ''; name it, or leave field out"
            )
        check_choice(("truncate", "reject"), too_long=too_long)
        if prompt is not None and prompt.count("{text}") != 1:
            raise PropError(f"prompt must contain {{text}} once, got {prompt!r}; write it where the text goes")
        path = tokenizer_file(tokenizer)
        if prompt is not None:
            check_prompt(path, prompt, max_length)
        options = {
            "tokenizer_file": TOKENIZER_FILE,
            "max_length": max_length,
            "pad_to_multiple_of": pad_to_multiple_of,
            "field": field,
            "too_long": too_long,
            **({} if prompt is None else {"prompt": prompt}),
        }
        code = StageCode(
            f"{BUILTIN}.text:text_preprocessor",
            options=options,
            # tokenizers needs these only to download, which no function does. They are twice its own size.
            excluded_requirements=("huggingface-hub",),
            sources={TOKENIZER_FILE: path},
            runtime_requirements="preprocess-text",
        )
        tokens = (max_length, pad_to_multiple_of)
        return cls(code, tokens=tokens) if field is None else cls(code, (".json",), tokens=tokens, offers=(STOP,))

    @classmethod
    def audio(
        cls,
        *,
        sample_rate: int = 16_000,
        max_seconds: float = 30.0,
        too_long: Literal["truncate", "reject"] = "reject",
        pad_to_multiple_of: float | None = None,
        formats: Sequence[Literal["wav", "flac", "ogg"]] = ("wav",),
    ) -> Preprocess:
        """Decode a recording into float32 samples of one channel, from -1 to 1, of shape (samples,).

        Recordings have any rate; channels are averaged. Another rate is brought to ``sample_rate`` by a sinc filter
        with a Kaiser window, whose aliases are 80 dB down. Put features, such as a spectrogram, into the model: then
        they are the same in the build and in the function.

        Parameters
        ----------
        sample_rate
            In Hz, 1,000 to 192,000.
        max_seconds
            The longest recording, at most 3,600 seconds.
        too_long
            The treatment of longer ones: ``reject`` rejects them, ``truncate`` keeps their beginning.
        pad_to_multiple_of
            Seconds to whose next multiple recordings are filled up with silence: those that come out equally long share
            a batch. With ``max_seconds``, all are of one length. Default: recordings keep their length.
        formats
            The formats that are read. ``wav``: PCM of 8 to 32 bits, and floats. ``flac``. ``ogg``: Vorbis and Opus. The
            last two put libsndfile into the function's package, 5 MB unpacked. Default: ``wav``.

        Raises
        ------
        PropError
            A value is out of range, or a format is unknown.
        """
        if not 1_000 <= sample_rate <= 192_000:  # noqa: PLR2004
            raise PropError(f"sample_rate must be 1,000 to 192,000 Hz, got {sample_rate}")
        if not 0 < max_seconds <= 3_600:  # noqa: PLR2004
            raise PropError(f"max_seconds must be above 0 and at most 3,600 seconds, got {max_seconds:g}")
        if pad_to_multiple_of is not None and not 0 < pad_to_multiple_of <= max_seconds:
            raise PropError(
                f"pad_to_multiple_of must be above 0 and at most max_seconds, {max_seconds:g}, got "
                f"{pad_to_multiple_of:g}; change one of them"
            )
        check_choice(("truncate", "reject"), too_long=too_long)
        if not formats or len(set(formats)) < len(formats) or not AUDIO_SUFFIXES.keys() >= set(formats):
            raise PropError(f"formats must be some of {', '.join(AUDIO_SUFFIXES)}, each once, got {list(formats)!r}")
        options = {
            "sample_rate": sample_rate,
            "max_seconds": max_seconds,
            "too_long": too_long,
            "pad_to_multiple_of": pad_to_multiple_of,
            "formats": list(formats),
        }
        code = StageCode(
            f"{BUILTIN}.audio:audio_preprocessor",
            options=options,
            runtime_requirements="preprocess-base" if set(formats) == {"wav"} else "preprocess-audio",
        )
        whole = round(max_seconds * sample_rate) if pad_to_multiple_of == max_seconds else "samples"
        return cls(
            code,
            suffixes=tuple(suffix for name in formats for suffix in AUDIO_SUFFIXES[name]),
            produces=("float32", (whole,)),
            offers=(SECONDS,),
        )

    @classmethod
    def tensor(cls) -> Preprocess:
        """Read an array that someone else prepared, in NumPy's ``.npy`` format (never pickled)."""
        return cls(StageCode(f"{BUILTIN}.tensor:tensor_preprocessor", options={}), suffixes=(".npy",))

    @classmethod
    def raw_tensor(cls, *, dtype: str, shape: Sequence[int]) -> Preprocess:
        """Read the bare elements of an array of this dtype and shape, little-endian, in C order, without the batch.

        Raises
        ------
        PropError
            The dtype is unknown, or a size is below 1.
        """
        check_choice(DTYPES, dtype=dtype)
        if any(size < 1 for size in shape):
            raise PropError(f"every size of shape must be at least 1, got {shape_text(shape)}")
        return cls(
            StageCode(
                f"{BUILTIN}.tensor:tensor_preprocessor",
                options={"format": "raw", "dtype": dtype, "shape": list(shape)},
            ),
            produces=(dtype, tuple(shape)),
        )

    @classmethod
    def function(
        cls,
        entry: str | Path,
        *,
        requirements: Sequence[str] | Path | str = (),
        sources: Sequence[str | Path] = (),
        suffixes: Sequence[str] | None = None,
        keep: Sequence[str] = (),
    ) -> Preprocess:
        """Use your own ``preprocess(data: bytes, item) -> array``.

        Parameters
        ----------
        entry
            ``path/to/file.py:function``.
        requirements
            The packages that it imports, as a list or the path of a requirements file. Pin them: a bundle is only as
            reproducible as its requirements.
        sources
            More files and folders that it needs, put next to it.
        suffixes
            The suffixes it reads. Default: any.
        keep
            Names of values that it returns in a dict with the inputs: anything that is JSON, at most 2,000 bytes an
            object. Your postprocessing finds them as ``item.kept``, and the row has them as ``kept``.

        Raises
        ------
        PropError
            The file or the function does not exist, or does not take two arguments. Or ``keep`` has an empty name, or
            one twice.
        """
        if not all(keep) or len(set(keep)) != len(keep):
            raise PropError(f"keep must be the unique names of the values to keep, got {list(keep)!r}")
        code = user_code(entry, requirements, sources, takes=("data", "item"))
        return cls(code, suffixes=tuple(suffixes) if suffixes is not None else None, keep=tuple(keep))

    def keeping(self, names: Sequence[str]) -> Preprocess:
        """Return the stage so that it keeps these values for postprocessing and the row, besides those it keeps anyway.

        A pipeline does so with what its postprocessing needs. Do it yourself if you create the functions one by one.

        Raises
        ------
        PropError
            The stage does not have such a value.
        """
        missing = [name for name in names if name not in self.keep]
        if unknown := [name for name in missing if name not in self.offers]:
            builtin = {SECONDS: "audio", STOP: "text with a field"}.get(unknown[0], "image")
            raise PropError(
                f"preprocess must keep '{unknown[0]}', which postprocess needs, got {list(self.keep)}; use "
                f"Preprocess.{builtin}, or return it from your function and name it in keep"
            )
        return replace(self, keep=(*self.keep, *missing)) if missing else self

    def bind(self, inputs: Sequence[TensorSpec]) -> StageCode:
        """Check the stage against the inputs of the model, and return its code.

        Raises
        ------
        PropError
            The stage's output must fit the model's inputs, and no value to keep may have the name of one.
        """
        if taken := [spec.name for spec in inputs if spec.name in self.keep]:
            raise PropError(f"keep must have other names than the inputs of the model, got '{taken[0]}'; rename it")
        if self.columns and (len(inputs) > 1 or any(column.kind == "text" for column in self.columns)):
            tensors = _tensors_for(self.columns, inputs)
            return replace(self.code, options={**(self.code.options or {}), "inputs": tensors})
        if self.produces is not None:
            dtype, shape = self.produces
            spec = inputs[0]
            fits = (
                len(inputs) == 1
                and spec.dtype == dtype
                and len(spec.shape) == len(shape) + 1
                and all(isinstance(want, str) or want == got for want, got in zip(spec.shape[1:], shape, strict=True))
            )
            if not fits:
                takes = ", ".join(f"{i.name}: {i.dtype} {shape_text(i.shape)}" for i in inputs)
                raise PropError(
                    f"preprocess must make what the model takes, {takes}, got {dtype} {shape_text(('batch', *shape))}; "
                    "change the stage's props or bring your own function"
                )
        for column in self.columns:
            column.check_fits(inputs[0])
        if self.tokens is not None:
            _check_token_inputs(inputs, *self.tokens)
            told = {"inputs": {i.name: i.dtype for i in inputs}, **({"keep_stop": True} if STOP in self.keep else {})}
            return replace(self.code, options={**(self.code.options or {}), **told})
        for value, option in ((PICTURE, "locate"), (SECONDS, "measure")):
            if value in self.offers and value in self.keep:
                return replace(self.code, options={**(self.code.options or {}), option: inputs[0].name})
        return self.code


@check_props
@renamed_props(max_object_bytes=("max_object_size", Size.bytes))
class PreprocessFunction(StageFunction):
    """Reads a batch of objects and makes the tensors that the model takes.

    Parameters
    ----------
    stage
        How one object becomes an array.
    model
        The model whose inputs the arrays must fit.
    trigger
        Where the objects are; the function may read them.
    work
        Where tensors go that are too large for the state of the workflow.
    max_object_size
        Larger objects are rejected before they are read. Default: 64 MiB.
    memory_size
        Default: 1,769 MiB.
    timeout
        Default: 30 seconds.
    capacity
        Where environments come from. Default: Lambda makes them on demand.
    explanation
        Which answers are explained. Default: none.
    **options
        As those of `StageFunction`.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        stage: Preprocess,
        model: ModelArtifact,
        trigger: ITrigger,
        work: IWorkBucket,
        max_object_size: Size | None = None,
        memory_size: int = 1769,
        timeout: Duration | None = None,
        capacity: CapacityStrategy = ON_DEMAND,
        explanation: Explanation | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        code = stage.bind(model.inputs)
        check_longest_text(model, stage, model.project)
        super().__init__(
            scope,
            id,
            package=code.package("inference_runtime.handlers.preprocess.handler"),
            description=f"reads objects and makes the input of {model.manifest.name}",
            environment={
                **code.environment(),
                **reading_environment(stage, model, max_object_size),
                **({} if explanation is None else explanation.reading_environment),
                "WORK_BUCKET": work.bucket.bucket_name,
            },
            memory_size=memory_size,
            timeout=timeout if timeout is not None else Duration.seconds(30),
            capacity=capacity,
            **options,
        )
        trigger.grant_read(self)
        work.grant_write(self)
        trigger.acknowledge_read(self.role)
        acknowledgments.objects_under(self.role, work.bucket, TENSORS)


def reading_environment(
    stage: Preprocess, model: ModelArtifact | BuiltModel, max_object_size: Size | None
) -> dict[str, str]:
    """Return the variables of a handler that reads objects for a model, besides those of the stage's code.

    Raises
    ------
    PropError
        No object is that small.
    """
    most = DEFAULT_MAX_OBJECT_BYTES if max_object_size is None else bytes_text("max_object_size", max_object_size)
    inputs = [spec.for_runtime() for spec in model.manifest.inputs]
    keep = {"KEEP": json.dumps(stage.keep, ensure_ascii=False)} if stage.keep else {}
    return {"MODEL_INPUTS": json.dumps(inputs), "MAX_OBJECT_BYTES": most, **keep}


def _columns(prop: str, given: Sequence[str | Column], dtype: str) -> tuple[Column, ...]:
    columns = tuple(column if isinstance(column, Column) else Column(column, "number") for column in given)
    names = [column.name for column in columns]
    if not all(names) or not names or len(set(names)) != len(names):
        raise PropError(f"{prop} must be the unique names of the values that the model takes, in order, got {names!r}")
    if dtype not in DTYPES or dtype == "bool":
        raise PropError(f"dtype must be a type of numbers, such as 'float32', got '{dtype}'")
    return columns


def _tensors_for(columns: Sequence[Column], inputs: Sequence[TensorSpec]) -> dict[str, list[object]]:
    """Return dtype and shape, without the batch, of the tensor for each column, by its name."""
    specs = {spec.name: spec for spec in inputs}
    if specs.keys() != {column.name for column in columns}:
        raise PropError(
            f"preprocess must have a column for each input of the model, {', '.join(specs)}, got "
            f"{', '.join(column.name for column in columns)}; name the columns as the inputs"
        )
    for column in columns:
        spec = specs[column.name]
        fits = (
            (spec.dtype == STRING) == (column.kind == "text") and spec.dtype != "bool" and spec.shape[1:] in ((), (1,))
        )
        if not fits:
            kind = "a string" if column.kind == "text" else "a number"
            raise PropError(
                f"input '{spec.name}' of the model must take {kind} as (batch,) or (batch, 1) for column "
                f"'{column.name}', got {spec.dtype} {shape_text(spec.shape)}; change the column, or bring your own "
                "function"
            )
        column.check_fits(spec)
    return {name: [spec.dtype, list(spec.shape[1:])] for name, spec in specs.items()}


def _check_token_inputs(inputs: Sequence[TensorSpec], max_length: int, multiple: int) -> None:
    for spec in inputs:
        if ANSWER_INPUTS.get(spec.name) == spec.dtype and len(spec.shape) == 1:
            continue
        if spec.name not in TOKEN_INPUTS or spec.dtype not in ("int32", "int64") or len(spec.shape) != 2:  # noqa: PLR2004
            raise PropError(
                f"the model must take {', '.join(TOKEN_INPUTS)} as int64 or int32 (batch, tokens), got {spec.name}: "
                f"{spec.dtype} {shape_text(spec.shape)}; bring your own function"
            )
        size = spec.shape[1]
        if not isinstance(size, str) and not size == max_length == multiple:
            raise PropError(
                f"max_length and pad_to_multiple_of must be {size}, as many tokens as the model takes, got "
                f"{max_length} and {multiple}"
            )
