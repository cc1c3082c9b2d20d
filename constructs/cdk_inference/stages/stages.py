"""Describes the stages before and after the model: built-in ones, and the user's functions."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cdk_inference.common.cache import cache_root
from cdk_inference.common.prop_types import check_props
from cdk_inference.errors import ModelBuildError, PropError
from cdk_inference.model.recipe.tensors import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cdk_inference.model.recipe.sources import Download, HubFile, PackageFile
    from cdk_inference.model.recipe.tensors import TensorSpec

_BUILTIN = "inference_runtime.stages.builtin"

_LABELS_FILE = "labels.txt"
_TOKENIZER_FILE = "tokenizer.json"
_TOP = 5
_STAGE = "STAGE"
_MAX_INLINE_OPTIONS = 1_000  # bytes; a function's environment holds 4 KB in all
# Names that the runtime itself has in the package.
_TAKEN = frozenset({"inference_runtime", "model", _LABELS_FILE, _TOKENIZER_FILE, "stage_options.json"})

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class StageCode:
    """The code of a stage, as its function is told about it.

    Attributes
    ----------
    function
        ``module:attribute`` in the function's package.
    options
        If not ``None``, the attribute is a factory, called with these once at start-up.
    requirements
        Packages besides those of the runtime, as pip writes them, and requirements files.
    excluded_requirements
        Packages that stay out although one of those asks for them.
    sources
        Files and folders to put into the package, by their name in it.
    runtime_requirements
        Name of the runtime's own list of pinned packages.
    """

    function: str
    options: Mapping[str, object] | None = None
    requirements: tuple[str | Path, ...] = ()
    excluded_requirements: tuple[str, ...] = ()
    sources: Mapping[str, Path] = field(default_factory=dict)
    runtime_requirements: str = "preprocess-base"

    def environment(self, prefix: str = _STAGE) -> dict[str, str]:
        """Return the variables by which the runtime finds the stage.

        Parameters
        ----------
        prefix
            What their names begin with: in a function with several stages, each has its own.
        """
        variables = {f"{prefix}_FUNCTION": self.function}
        if len(self._options) > _MAX_INLINE_OPTIONS:
            variables[f"{prefix}_OPTIONS_FILE"] = _options_file(prefix)
        elif self.options is not None:
            variables[f"{prefix}_OPTIONS"] = self._options.decode()
        return variables

    def files(self, prefix: str = _STAGE) -> dict[str, Path | bytes]:
        """Return what to put into the package: the sources, and options that the environment would not hold."""
        too_long = len(self._options) > _MAX_INLINE_OPTIONS
        return {**self.sources, **({_options_file(prefix): self._options} if too_long else {})}

    @property
    def _options(self) -> bytes:
        if self.options is None:
            return b""
        return json.dumps(self.options, sort_keys=True, ensure_ascii=False).encode()


@check_props
@dataclass(frozen=True)
class Preprocess:
    """How the bytes of an object become the model's input; made by one of the class methods."""

    code: StageCode
    suffixes: tuple[str, ...] | None = None
    """The suffixes it can read; ``None`` if it reads anything."""
    produces: tuple[str, tuple[int, ...]] | None = None
    """dtype and shape, without the batch, of what it makes, where that is known beforehand."""
    tokens: tuple[int, int] | None = None
    """Bounds of a stage that makes tokens: the most of them, and the multiple that their number is rounded up to."""

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
            raise PropError(f"size is {size}; an image has between 1 and 4096 pixels a side")
        if resize not in ("center_crop", "stretch", "pad"):
            raise PropError(f"resize is '{resize}'; use 'center_crop', 'stretch' or 'pad'")
        if interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
            raise PropError(f"interpolation is '{interpolation}'; use 'nearest', 'bilinear', 'bicubic' or 'lanczos'")
        if not 0 < crop <= 1:
            raise PropError(f"crop is {crop}; it must be above 0 and at most 1")
        if max_pixels < 1:
            raise PropError(f"max_pixels is {max_pixels}; it must be at least 1")
        options = {
            "size": size,
            "resize": resize,
            "interpolation": interpolation,
            "crop": crop,
            "max_pixels": max_pixels,
        }
        return cls(
            StageCode(f"{_BUILTIN}.image:image_preprocessor", options=options, runtime_requirements="preprocess-image"),
            suffixes=IMAGE_SUFFIXES,
            produces=("uint8", (size, size, 3)),
        )

    @classmethod
    def json(cls, *, fields: Sequence[str], dtype: str = "float32") -> Preprocess:
        """Read numbers from the fields of a JSON object, in this order, as an array of shape (len(fields),).

        Raises
        ------
        PropError
            The fields are not distinct names, or the dtype is not one of numbers.
        """
        _check_columns("fields", fields, dtype)
        return cls(
            StageCode(f"{_BUILTIN}.tabular:json_preprocessor", options={"fields": list(fields), "dtype": dtype}),
            suffixes=(".json",),
            produces=(dtype, (len(fields),)),
        )

    @classmethod
    def csv(
        cls, *, columns: Sequence[str], dtype: str = "float32", header: bool = True, delimiter: str = ","
    ) -> Preprocess:
        """Read numbers from the named columns of a CSV file with one row, as an array of shape (len(columns),).

        Parameters
        ----------
        columns
            Their names, in the order that the model takes.
        dtype
            Of the array.
        header
            Whether the first line names the columns. Without, they are taken in the order of ``columns``.
        delimiter
            One character.

        Raises
        ------
        PropError
            The columns are not distinct names, the dtype is not one of numbers, or the delimiter is not one character.
        """
        _check_columns("columns", columns, dtype)
        if len(delimiter) != 1:
            raise PropError(f"delimiter is {delimiter!r}; it must be one character")
        return cls(
            StageCode(
                f"{_BUILTIN}.tabular:csv_preprocessor",
                options={"columns": list(columns), "dtype": dtype, "header": header, "delimiter": delimiter},
            ),
            suffixes=(".csv",),
            produces=(dtype, (len(columns),)),
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
    ) -> Preprocess:
        """Turn text in UTF-8 into tokens, an array of shape (tokens,) for each input of the model.

        The inputs are those that the model has of ``input_ids``, ``attention_mask`` and ``token_type_ids``.

        Parameters
        ----------
        tokenizer
            The model's ``tokenizer.json``, as Hugging Face's libraries write it: a path, or where it comes from. It
            goes into the function's package.
        max_length
            Most tokens, special ones included, 8 to 8,192: no more than the model has positions for.
        pad_to_multiple_of
            Texts are padded to the next multiple of this, which divides ``max_length``: those that come out equally
            long share a batch.
        field
            Field of a JSON object that holds the text. Default: the whole object is the text.
        too_long
            What becomes of longer texts: ``truncate`` keeps their first ``max_length`` tokens, ``reject`` rejects them.

        Raises
        ------
        PropError
            A value is out of range, or the file is missing or no tokenizer.
        """
        if not 8 <= max_length <= 8192:  # noqa: PLR2004
            raise PropError(f"max_length is {max_length}; it must be between 8 and 8192 tokens")
        if not 1 <= pad_to_multiple_of <= max_length or max_length % pad_to_multiple_of:
            raise PropError(
                f"pad_to_multiple_of is {pad_to_multiple_of}, of which max_length, {max_length}, is no multiple; "
                "change one of them"
            )
        if field == "":
            raise PropError("field is ''; name the field of the JSON object that holds the text, or leave it out")
        if too_long not in ("truncate", "reject"):
            raise PropError(f"too_long is '{too_long}'; use 'truncate' or 'reject'")
        options = {
            "tokenizer_file": _TOKENIZER_FILE,
            "max_length": max_length,
            "pad_to_multiple_of": pad_to_multiple_of,
            "field": field,
            "too_long": too_long,
        }
        code = StageCode(
            f"{_BUILTIN}.text:text_preprocessor",
            options=options,
            # What tokenizers downloads with, which no function does: twice its own size, with all that it needs.
            excluded_requirements=("huggingface-hub",),
            sources={_TOKENIZER_FILE: _tokenizer_file(tokenizer)},
            runtime_requirements="preprocess-text",
        )
        return cls(code, suffixes=None if field is None else (".json",), tokens=(max_length, pad_to_multiple_of))

    @classmethod
    def tensor(cls) -> Preprocess:
        """Read an array that someone else prepared, in NumPy's ``.npy`` format (never pickled)."""
        return cls(StageCode(f"{_BUILTIN}.tensor:tensor_preprocessor", options={}), suffixes=(".npy",))

    @classmethod
    def raw_tensor(cls, *, dtype: str, shape: Sequence[int]) -> Preprocess:
        """Read the bare elements of an array of this dtype and shape, little-endian, in C order, without the batch.

        Raises
        ------
        PropError
            The dtype is unknown, or a size is below 1.
        """
        if dtype not in DTYPES:
            raise PropError(f"dtype is '{dtype}'; use one of {', '.join(DTYPES)}")
        if any(size < 1 for size in shape):
            raise PropError(f"shape is {_shape(shape)}; every size must be at least 1")
        return cls(
            StageCode(
                f"{_BUILTIN}.tensor:tensor_preprocessor",
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
    ) -> Preprocess:
        """Use your own ``preprocess(data: bytes, item) -> array``.

        Parameters
        ----------
        entry
            ``path/to/file.py:function``.
        requirements
            What it imports, as a list or the path of a requirements file. Pin them: a bundle is only as reproducible
            as its requirements.
        sources
            More files and folders that it needs, put next to it.
        suffixes
            The suffixes it reads. Default: any.

        Raises
        ------
        PropError
            The file or the function does not exist, or does not take two arguments.
        """
        code = user_code(entry, requirements, sources, takes=("data", "item"))
        return cls(code, suffixes=tuple(suffixes) if suffixes is not None else None)

    def bind(self, inputs: Sequence[TensorSpec]) -> StageCode:
        """Check the stage against the inputs of the model, and return its code.

        Raises
        ------
        PropError
            What the stage makes is not what the model takes.
        """
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
                takes = ", ".join(f"{i.name}: {i.dtype} {_shape(i.shape)}" for i in inputs)
                raise PropError(
                    f"preprocess makes {dtype} {_shape(('batch', *shape))}, but the model takes {takes}; "
                    "change the stage's props or bring your own function"
                )
        if self.tokens is not None:
            _check_token_inputs(inputs, *self.tokens)
            return replace(
                self.code, options={**(self.code.options or {}), "inputs": {i.name: i.dtype for i in inputs}}
            )
        return self.code


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

    @classmethod
    def classification(
        cls,
        *,
        labels: Sequence[str] | Path | str,
        top: int | None = None,
        activation: Literal["softmax", "none"] = "softmax",
        output: str | None = None,
    ) -> Postprocess:
        """Store the best classes, with their labels and scores.

        Parameters
        ----------
        labels
            Names of the classes in the order of the model's output, as a list or the path of a file with one a line.
        top
            How many classes to store. Default: 5, or all of them if there are fewer.
        activation
            ``softmax`` if the model ends in logits, ``none`` if its outputs are scores already.
        output
            The model's output that holds the classes. Default: the only one.

        Raises
        ------
        PropError
            The file does not exist, or there are no labels.
        """
        options: dict[str, object] = {"activation": activation, "output": output}
        sources: dict[str, Path] = {}
        if isinstance(labels, str | Path):
            path = Path(labels)
            names = _read_lines(path, "labels")
            options["labels_file"] = _LABELS_FILE
            sources[_LABELS_FILE] = path
        else:
            names = list(labels)
            options["labels"] = names
        if not names:
            raise PropError("labels is empty; classification needs the name of every class")
        options["top"] = min(_TOP, len(names)) if top is None else top
        if top is not None and not 1 <= top <= len(names):
            raise PropError(f"top is {top}, but there are {len(names)} classes")
        if activation not in ("softmax", "none"):
            raise PropError(f"activation is '{activation}'; use 'softmax' or 'none'")
        code = StageCode(
            f"{_BUILTIN}.classification:classification_postprocessor",
            options=options,
            sources=sources,
            runtime_requirements="postprocess",
        )
        return cls(code, classes=len(names), output=output)

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
        if encoding not in ("binary", "list"):
            raise PropError(f"encoding is '{encoding}'; use 'binary' or 'list'")
        code = StageCode(
            f"{_BUILTIN}.embedding:embedding_postprocessor",
            options={"output": output, "normalize": normalize, "encoding": encoding},
            runtime_requirements="postprocess",
        )
        return cls(code, output=output, vector=True)

    @classmethod
    def outputs(cls) -> Postprocess:
        """Store the outputs as they are, as lists of numbers: for small outputs."""
        return cls(
            StageCode(f"{_BUILTIN}.outputs:outputs_postprocessor", options={}, runtime_requirements="postprocess")
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

    def bind(self, outputs: Sequence[TensorSpec]) -> StageCode:
        """Check the stage against the outputs of the model, and return its code.

        Raises
        ------
        PropError
            There are not as many labels as classes, the output is not a vector, or several outputs may be meant.
        """
        if self.vector:
            spec = _one_output(outputs, self.output, "the vector")
            if len(spec.shape) != 2 or not spec.dtype.startswith("float"):  # noqa: PLR2004
                raise PropError(
                    f"the model's output '{spec.name}' is {spec.dtype} {_shape(spec.shape)}, which is no vector of "
                    "floats for each object; name another output, or bring your own function"
                )
        if self.classes is not None:
            spec = _one_output(outputs, self.output, "the classes")
            width = spec.shape[-1]
            if not isinstance(width, str) and width != self.classes:
                raise PropError(
                    f"labels has {self.classes} names, but the model's output '{spec.name}' has {width} classes; "
                    "pass one name for each class, in order"
                )
        return self.code


def _options_file(prefix: str) -> str:
    return f"{prefix.lower()}_options.json"


def _check_columns(prop: str, names: Sequence[str], dtype: str) -> None:
    if not names or len(set(names)) != len(names):
        raise PropError(f"{prop} is {names!r}; list the names of the numbers that the model takes, in order")
    if dtype not in DTYPES or dtype == "bool":
        raise PropError(f"dtype is '{dtype}'; use a type of numbers, such as 'float32'")


def _check_token_inputs(inputs: Sequence[TensorSpec], max_length: int, multiple: int) -> None:
    for spec in inputs:
        if spec.name not in TOKEN_INPUTS or spec.dtype not in ("int32", "int64") or len(spec.shape) != 2:  # noqa: PLR2004
            raise PropError(
                f"preprocess makes {', '.join(TOKEN_INPUTS)}: int64 or int32 (batch, tokens), but the model takes "
                f"{spec.name}: {spec.dtype} {_shape(spec.shape)}; bring your own function"
            )
        size = spec.shape[1]
        if not isinstance(size, str) and not size == max_length == multiple:
            raise PropError(
                f"the model takes exactly {size} tokens; pass max_length={size} and pad_to_multiple_of={size}"
            )


def _one_output(outputs: Sequence[TensorSpec], name: str | None, what: str) -> TensorSpec:
    named = [spec for spec in outputs if name in (None, spec.name)]
    if len(named) != 1:
        raise PropError(
            f"output is {name!r}, but the model's outputs are {', '.join(spec.name for spec in outputs)}; "
            f"name the one that holds {what}"
        )
    return named[0]


def _tokenizer_file(tokenizer: str | Path | Download | HubFile | PackageFile) -> Path:
    if isinstance(tokenizer, str | Path):
        path = Path(tokenizer)
        if not path.is_file():
            raise PropError(f"tokenizer: there is no file '{path}' (looked in {Path.cwd()})")
    else:
        from cdk_inference.model.files.fetch import fetch  # noqa: PLC0415 - with its HTTP client it takes 0.2 s to import

        try:
            path = fetch(tokenizer, Path.cwd(), cache_root())
        except ModelBuildError as error:
            raise PropError(f"tokenizer: {error}") from None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PropError(f"tokenizer: '{path}' is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise PropError(
            f"tokenizer: '{path}' has no model; pass the tokenizer.json of a fast tokenizer, as its save_pretrained "
            "writes it"
        )
    return path


def _shape(shape: Sequence[int | str]) -> str:
    return "(" + ", ".join(str(axis) for axis in shape) + ")"


def _read_lines(path: Path, prop: str) -> list[str]:
    if not path.is_file():
        raise PropError(f"{prop}: there is no file '{path}' (looked in {Path.cwd()})")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise PropError(f"{prop} must be a text file in UTF-8 with one name a line, got '{path}'; convert it") from None


def user_code(
    entry: str | Path,
    requirements: Sequence[str] | Path | str,
    sources: Sequence[str | Path],
    *,
    takes: Sequence[str],
    runtime_requirements: str = "preprocess-base",
) -> StageCode:
    """Return the code of a function of the user's that takes these arguments.

    Raises
    ------
    PropError
        The file or the function does not exist, or does not take them.
    """
    file, colon, name = str(entry).rpartition(":")
    path = Path(file)
    if not colon or not name.isidentifier() or path.suffix != ".py" or not path.stem.isidentifier():
        raise PropError(f"entry '{entry}' is not of the form 'path/to/file.py:function'")
    if not path.is_file():
        raise PropError(f"entry: there is no file '{path}' (looked in {Path.cwd()})")
    _check_function(path, name, takes)
    needs: tuple[str | Path, ...]
    if isinstance(requirements, str | Path):
        needs = (Path(requirements),)
        if not needs[0].is_file():
            raise PropError(f"requirements: there is no file '{requirements}' (looked in {Path.cwd()})")
    else:
        needs = tuple(requirements)
    files: dict[str, Path] = {}
    for source in (path, *map(Path, sources)):
        if not source.exists():
            raise PropError(f"sources: there is no file or folder '{source}' (looked in {Path.cwd()})")
        name_in_package = source.resolve().name
        if name_in_package in _TAKEN or name_in_package in files:
            raise PropError(f"sources: '{source}' and something else are both called '{name_in_package}'; rename it")
        files[name_in_package] = source
    return StageCode(
        f"{path.stem}:{name}", requirements=needs, sources=files, runtime_requirements=runtime_requirements
    )


def _check_function(path: Path, name: str, takes: Sequence[str]) -> None:
    """Look for the function without importing the file: its requirements need not be installed here."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise PropError(f"entry: '{path}' is not valid Python: {error}") from None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            arguments = node.args
            positional = [*arguments.posonlyargs, *arguments.args]
            needed = len(positional) - len(arguments.defaults) + sum(d is None for d in arguments.kw_defaults)
            if needed > len(takes) or (len(positional) < len(takes) and not arguments.vararg):
                raise PropError(f"entry: '{name}' in '{path}' must be a function of ({', '.join(takes)})")
            return
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    raise PropError(f"entry: there is no function '{name}' in '{path}'; it has {', '.join(found) or 'none'}")
