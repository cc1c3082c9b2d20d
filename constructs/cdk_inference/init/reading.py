"""How objects become the inputs of a model: chosen by the names, types and shapes of these."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cdk_inference.init.model import TOKENIZER, Pixels
from cdk_inference.init.rendering import literal
from cdk_inference.model.recipe.tensors import STRING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cdk_inference.init.model import InspectedModel
    from cdk_inference.model.recipe.tensors import TensorSpec

_IMAGE_AXES = 4
_CHANNELS = (1, 3)
_MOST_PIXELS = 4096  # on a side, of `Preprocess.image`
_MOST_FIELDS = 100  # of a record; they are an environment variable of the function
_LEAST_SAMPLES = 1000  # of a sound; fewer numbers are features
_TOKENS = frozenset(("input_ids", "attention_mask", "token_type_ids"))
_FREE_SIZES = {"height": 224, "width": 224, "sequence": 16}
_FREE_SIZE = 16
_FREE_SOUND = 16_000
_RATE = 16_000  # Hz; the user puts that of the training in its place
_MOST_SECONDS = 3_600  # of `Preprocess.audio`

PILLOW = "pillow==installed"
"""Stands for the version that is installed, with which the data of the build are made."""


@dataclass(frozen=True)
class Reading:
    """The stage in front of a model, and data for its build.

    Parameters
    ----------
    kind
        Words for what the objects are.
    builtin
        The expression of a built-in stage in the app; empty if the project has a stage in ``preprocess.py``.
    sample
        The file that ``python data.py`` writes, to be uploaded.
    data
        The template of ``data.py``.
    templates
        More templates that the project gets, by path in the project.
    values
        More values that the templates need.
    options
        More arguments of the project's own stage.
    requirements
        Distributions that ``data.py`` imports besides NumPy and Pillow.
    """

    kind: str
    builtin: str
    sample: str
    data: str
    templates: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()

    @property
    def preprocess(self) -> str:
        """The expression of the stage in the app; an argument a line, as ruff leaves it, for the project's own."""
        if self.builtin:
            return self.builtin
        lines = "".join(f"        {each},\n" for each in ('"preprocess.py:preprocess"', *self.options))
        return f"Preprocess.function(\n{lines}    )"

    def keeping_picture(self) -> Reading:
        """Return how to read pictures so that the stage behind the model knows what of them the model saw."""
        if self.builtin:  # it does so by itself
            return self
        return replace(self, options=(*self.options, 'keep=["picture"]'), values={**self.values, "keep": True})


def choose_reading(model: InspectedModel) -> Reading:
    """Return the first way of reading that fits a model; the last one fits all."""
    found = next((reading for kind in _KINDS if (reading := kind(model)) is not None), None)
    return found or _record()


def _texts(model: InspectedModel) -> Reading | None:
    names = {spec.name for spec in model.inputs}
    if TOKENIZER not in model.files or "input_ids" not in names or not names <= _TOKENS:
        return None
    if any(len(spec.shape) != 2 or spec.dtype not in ("int64", "int32") for spec in model.inputs):  # noqa: PLR2004
        return None
    length = model.inputs[0].shape[1]
    options = f", max_length={length}, pad_to_multiple_of={length}" if isinstance(length, int) else ""
    if isinstance(length, str) and model.max_tokens != 256:  # noqa: PLR2004 - the stage's default
        options = f", max_length={model.max_tokens}"
    return Reading(
        kind="texts in UTF-8",
        builtin=f'Preprocess.text(tokenizer="{TOKENIZER}"{options})',
        sample="sample.txt",
        data="data_texts.py.j2",
        values={"length": length if isinstance(length, int) else 0, "most": model.max_tokens},
        requirements=("tokenizers",),
    )


def _pixels(model: InspectedModel) -> Reading | None:
    """Choose the built-in stage, if it makes just what the model takes."""
    spec = model.inputs[0]
    sides = spec.shape[1:3]
    if len(model.inputs) > 1 or spec.dtype != "uint8" or len(spec.shape) != _IMAGE_AXES or spec.shape[3] != 3:  # noqa: PLR2004
        return None
    if any(isinstance(side, int) and side > _MOST_PIXELS for side in sides):
        return None
    height, width = (_size(side, _FREE_SIZES["height"]) for side in sides)
    if height != width:
        return None
    return Reading(
        kind="pictures",
        builtin=f"Preprocess.image(size={height})",
        sample="sample.png",
        data="data_pixels.py.j2",
        values={"size": height},
    )


def _images(model: InspectedModel) -> Reading | None:
    """Choose a stage of the project's own for pictures in numbers that the model's training has chosen."""
    spec = model.inputs[0]
    if len(model.inputs) > 1 or len(spec.shape) != _IMAGE_AXES or not spec.dtype.startswith(("float", "uint8")):
        return None
    first = spec.shape[1] in _CHANNELS
    if not first and spec.shape[3] not in _CHANNELS:
        return None
    sides = spec.shape[2:] if first else spec.shape[1:3]
    height, width = (_size(side, _FREE_SIZES["height"]) for side in sides)
    return Reading(
        kind="pictures",
        builtin="",
        options=(
            f'requirements=["{PILLOW}"]',
            'sources=["pixels.py"]',
            _suffixes("jpeg", "jpg", "png"),
        ),
        sample="sample.png",
        data="data_images.py.j2",
        templates={"pixels.py": "pixels.py.j2", "preprocess.py": "preprocess_images.py.j2"},
        values={
            "height": height,
            "width": width,
            "channels": spec.shape[1] if first else spec.shape[3],
            "channels_first": first,
            "dtype": spec.dtype,
            "pixels": Pixels(),
            "keep": False,
        },
    )


def _features(model: InspectedModel) -> Reading | None:
    spec = model.inputs[0]
    if len(model.inputs) > 1 or len(spec.shape) != 2 or spec.dtype == "bool":  # noqa: PLR2004
        return None
    count = spec.shape[1]
    if isinstance(count, str) or count > _MOST_FIELDS:
        return None
    fields = model.fields if len(set(model.fields)) == count else tuple(f"feature_{i}" for i in range(count))
    dtype = "" if spec.dtype == "float32" else f', dtype="{spec.dtype}"'
    return Reading(
        kind="records in JSON",
        builtin=f"Preprocess.json(fields=FIELDS{dtype})",
        sample="sample.json",
        data="data_features.py.j2",
        templates={"fields.py": "fields.py.j2"},
        values={"fields": fields, "dtype": spec.dtype},
    )


def _columns(model: InspectedModel) -> Reading | None:
    """Choose a column of a record for each input, as scikit-learn's pipelines have them."""
    if any(spec.shape[1:] not in ((), (1,)) or spec.dtype == "bool" for spec in model.inputs):
        return None
    strings = {spec.name for spec in model.inputs if spec.dtype == STRING}
    if len(model.inputs) == 1 and not strings:
        return None
    columns = "".join(f"            {_column(each)},\n" for each in model.inputs)
    missing = any(each.nan for each in model.inputs)
    return Reading(
        kind="records in JSON",
        builtin=f"Preprocess.json(\n        fields=[\n{columns}        ]\n    )",
        sample="sample.json",
        data="data_records.py.j2",
        values={"column": bool(strings) or missing, "missing": missing, "flat": True},
    )


def _column(spec: TensorSpec) -> str:
    """Return the expression of a column: missing numbers are for the model to fill in, if it does."""
    if spec.dtype == STRING:
        return f"Column.text({literal(spec.name)})"
    return f"Column.number({literal(spec.name)}, missing=math.nan)" if spec.nan else literal(spec.name)


def _sound(model: InspectedModel) -> Reading | None:
    spec = model.inputs[0]
    if len(model.inputs) > 1 or spec.dtype != "float32" or any(size != 1 for size in spec.shape[1:-1]):
        return None
    if len(spec.shape) < 2 or (isinstance(spec.shape[-1], int) and spec.shape[-1] < _LEAST_SAMPLES):  # noqa: PLR2004
        return None
    length, fixed = _size(spec.shape[-1], _FREE_SOUND), isinstance(spec.shape[-1], int)
    builtin = len(spec.shape) == 2 and length <= _MOST_SECONDS * _RATE  # noqa: PLR2004 - (batch, samples)
    return Reading(
        kind="sounds as WAV files",
        builtin=_audio(length, fixed=fixed) if builtin else "",
        options=(
            'sources=["sound.py"]',
            _suffixes("wav"),
        ),
        sample="sample.wav",
        data="data_sounds.py.j2",
        templates={} if builtin else {"sound.py": "sound.py.j2", "preprocess.py": "preprocess_sounds.py.j2"},
        values={"length": length, "fixed": fixed, "own": not builtin, "shape": (*spec.shape[1:-1], -1)},
    )


def _audio(length: int, *, fixed: bool) -> str:
    """Return the built-in stage; of one length, it cuts recordings or fills them up with silence."""
    if not fixed:
        return f"Preprocess.audio(sample_rate={_RATE:_})"
    seconds = length / _RATE
    lines = (
        f"sample_rate={_RATE:_}",
        f"max_seconds={seconds}",
        'too_long="truncate"',
        f"pad_to_multiple_of={seconds}",
    )
    return "Preprocess.audio(\n" + "".join(f"        {line},\n" for line in lines) + "    )"


def _array(model: InspectedModel) -> Reading | None:
    if len(model.inputs) > 1:
        return None
    return Reading(
        kind="arrays as .npy files", builtin="Preprocess.tensor()", sample="sample.npy", data="data_arrays.py.j2"
    )


def _record() -> Reading:
    return Reading(
        kind="JSON records of several inputs",
        builtin="",
        options=(_suffixes("json"),),
        sample="sample.json",
        data="data_records.py.j2",
        templates={"preprocess.py": "preprocess_records.py.j2"},
    )


_KINDS: tuple[Callable[[InspectedModel], Reading | None], ...] = (
    _texts,
    _pixels,
    _images,
    _columns,
    _features,
    _sound,
    _array,
)


def takes_pictures(model: InspectedModel) -> bool:
    """Tell whether a model takes pictures, in whatever form."""
    return any(kind(model) is not None for kind in (_pixels, _images))


def sample_sizes(model: InspectedModel) -> list[tuple[TensorSpec, tuple[int, ...]]]:
    """Return each input with the sizes that made-up data have, without the batch; equal symbols are equal."""
    return [
        (spec, tuple(_size(size, _FREE_SIZES.get(str(size), _FREE_SIZE)) for size in spec.shape[1:]))
        for spec in model.inputs
    ]


def elements(spec: TensorSpec) -> int:
    """Return how many numbers a tensor has for one sample, about: free sizes count as made-up data have them."""
    return math.prod(_size(size, _FREE_SIZE) for size in spec.shape[1:])


def _suffixes(*names: str) -> str:
    return f"suffixes=[{', '.join(literal(f'.{name}') for name in names)}]"


def _size(size: int | str, free: int) -> int:
    return size if isinstance(size, int) else free
