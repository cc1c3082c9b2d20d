"""Inspects a model of transformers by its configuration, from the Hugging Face Hub or a folder."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cdk_inference.init.errors import InitError
from cdk_inference.init.model import TOKENIZER, InspectedModel, Pixels
from cdk_inference.init.sources.hub import Hub
from cdk_inference.model.recipe.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

_FACTORY = "factory.py"
_FOLDER = "model"
_CONFIGURATION = "config.json"
_PREPROCESSOR = "preprocessor_config.json"
_WEIGHTS = re.compile(r"(model|pytorch_model).*\.(safetensors|bin|json)")
_MOST_TOKENS = 256
_CHANNELS = 3
_WHITE = 255
_TEXTS = ("ForSequenceClassification", "ForTokenClassification", "Model")
_WRITERS = ("LMHeadModel", "DoubleHeadsModel", "ForCausalLM", "ForConditionalGeneration", "ForSpeechSeq2Seq")
_GUESSED = f"{_PREPROCESSOR} gives no image_mean, so pixels become -1 to 1; change factory.py if the model takes others"
_POOLED = "the vector of a text is the mean of its tokens; change factory.py if the model was trained otherwise"


class _Repository(Protocol):
    """The files of a model."""

    def read(self, path: str) -> str | None:
        """Return the text of a file, or None if there is none."""


@dataclass(frozen=True)
class _Folder:
    path: Path

    def read(self, path: str) -> str | None:
        file = self.path / path
        return file.read_text("utf-8", "replace") if file.is_file() else None


@dataclass(frozen=True)
class _Place:
    """Where the factory loads the weights, and what the project gets of them."""

    load: tuple[str, ...]
    origin: str
    license: str = "NOASSERTION"
    files: Mapping[str, Path | str] = field(default_factory=dict)


def inspect_hub_model(name: str) -> InspectedModel:
    """Return what the configuration of a model of transformers says.

    Parameters
    ----------
    name
        A repository of the Hub, such as ``organisation/name``, or the path of a folder that ``save_pretrained`` wrote.

    Raises
    ------
    InitError
        There is no such model, the Hub cannot be reached, or the project could not use its task.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        weights = {f"{_FOLDER}/{each.name}": each for each in sorted(folder.iterdir()) if _belongs(each)}
        place = _Place((f'Path(__file__).with_name("{_FOLDER}")',), f"the folder {folder.name}", files=weights)
        return _inspect(name, _Folder(folder), place)
    if name.startswith((".", "/", "~")):
        raise InitError(f"from must be hf: and a model of the Hub or an existing folder, got '{name}'")
    hub = Hub.find(name)
    load = (f'"{hub.name}"', f'revision="{hub.revision}"')
    origin = f"https://huggingface.co/{hub.name} at {hub.revision}"
    return _inspect(name, hub, _Place(load, origin, hub.license))


def _belongs(path: Path) -> bool:
    return path.is_file() and (path.name == _CONFIGURATION or bool(_WEIGHTS.fullmatch(path.name)))


def _inspect(name: str, repository: _Repository, place: _Place) -> InspectedModel:
    configuration = _json(repository, _CONFIGURATION, name)
    if configuration is None:
        raise InitError(f"from must be hf: and a model with a {_CONFIGURATION}, got '{name}' without one")
    try:
        architecture = str(next(iter(configuration.get("architectures") or ()), "no architecture"))
        if architecture.endswith("ForImageClassification"):
            return _image_classifier(configuration, _json(repository, _PREPROCESSOR, name) or {}, place, name)
        if architecture.endswith(_WRITERS):
            raise InitError(
                f"from must be hf: and a model for images or texts that gives classes or vectors, got '{name}', a "
                f"{architecture}, which writes; write a recipe with a driver, such as Greedy of cdk_inference.model"
            )
        for ending in _TEXTS:
            if architecture.endswith(ending) and "vocab_size" in configuration:
                return _text_model(ending, configuration, repository, place, name)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InitError(f"configuration of '{name}' must be one of transformers, got {error}") from error
    raise InitError(
        f"from must be hf: and a model for images or texts that gives classes or vectors, got '{name}', a "
        f"{architecture}; export it to ONNX, and pass the file"
    )


def _json(repository: _Repository, path: str, name: str) -> dict[str, Any] | None:
    text = repository.read(path)
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        found = ()
    if found is not None and not isinstance(found, dict):
        raise InitError(f"{path} of '{name}' must be an object of JSON, got something else; download it again")
    return found


def _text_model(
    ending: str, configuration: dict[str, Any], repository: _Repository, place: _Place, name: str
) -> InspectedModel:
    tokenizer = repository.read(TOKENIZER)
    if tokenizer is None:
        raise InitError(
            f"from must be hf: and a model with a {TOKENIZER}, got '{name}' without one; write it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...), which converts older ones"
        )
    names = ["input_ids", "attention_mask", *["token_type_ids"] * ((configuration.get("type_vocab_size") or 0) > 1)]
    labels = _labels(configuration)
    automatic = f"AutoModel{'' if ending == 'Model' else ending}"
    positions = configuration.get("max_position_embeddings")
    # RoBERTa and its kin count positions from the one after the padding token.
    usable = positions - (configuration.get("pad_token_id") or 0) - 1 if isinstance(positions, int) else _MOST_TOKENS
    return InspectedModel(
        source=f'TorchModule(factory="{_FACTORY}:build")',
        imports=("TorchModule",),
        inputs=tuple(TensorSpec(each, "int64", ("batch", "sequence")) for each in names),
        outputs=(_output(ending, configuration, labels, name),),
        origin=place.origin,
        license=place.license,
        files={**place.files, TOKENIZER: tokenizer},
        templates={_FACTORY: "factory_texts.py.j2"},
        values={"automatic": automatic, "load": place.load, "pooled": ending == "Model", "inputs_names": names},
        labels=labels if ending == "ForSequenceClassification" else (),
        packages=("transformers",),
        max_tokens=max(16, min(_MOST_TOKENS, usable) // 16 * 16),
        notes=(_POOLED,) if ending == "Model" else (),
    )


def _image_classifier(
    configuration: dict[str, Any], preprocessor: dict[str, Any], place: _Place, name: str
) -> InspectedModel:
    crop = preprocessor.get("crop_size") if preprocessor.get("do_center_crop", True) else None
    size = crop or preprocessor.get("size") or configuration.get("image_size") or 224
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge") or 224
    labels = _labels(configuration)
    return InspectedModel(
        source=f'TorchModule(factory="{_FACTORY}:build")',
        imports=("TorchModule",),
        inputs=(TensorSpec("pictures", "uint8", ("batch", size, size, 3)),),
        outputs=(TensorSpec("logits", "float32", ("batch", len(labels))),),
        origin=place.origin,
        license=place.license,
        files=place.files,
        templates={_FACTORY: "factory_pictures.py.j2"},
        values={"load": place.load, "pixels": _pixels(preprocessor, name)},
        labels=labels,
        packages=("transformers",),
        notes=(_GUESSED,) if _normalizes(preprocessor) and preprocessor.get("image_mean") is None else (),
    )


def _normalizes(preprocessor: dict[str, Any]) -> bool:
    # MobileViT's processor is the one that flips channels, and it does not normalize.
    return bool(preprocessor.get("do_normalize", not preprocessor.get("do_flip_channel_order")))


def _pixels(preprocessor: dict[str, Any], name: str) -> Pixels:
    """Return the steps of transformers' processors as one: they rescale pixels, normalize them, and flip channels.

    EfficientNet's also shifts rescaled pixels by 1 (``rescale_offset``), and divides twice (``include_top``).
    """
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _normalizes(preprocessor):
        mean, std = _channels(preprocessor, "image_mean", name), _channels(preprocessor, "image_std", name)
    if preprocessor.get("include_top"):
        red, green, blue = _channels(preprocessor, "image_std", name)
        std = (std[0] * red, std[1] * green, std[2] * blue)
    scale, shift = float(_WHITE), 0.0
    if preprocessor.get("do_rescale", True):
        # Rounded, since factors are saved as float32 too: 1/255 must become exactly 1.
        scale = float(f"{_WHITE * float(preprocessor.get('rescale_factor') or 1 / _WHITE):.6g}")
        shift = 1.0 if preprocessor.get("rescale_offset") else 0.0
    given = (scale, *mean, *std)
    if min(scale, *std) <= 0 or not all(math.isfinite(each) and math.isfinite(each / scale) for each in given):
        raise InitError(
            f"{_PREPROCESSOR} of '{name}' must have a finite image_mean, and image_std and rescale_factor above 0, "
            f"got {mean}, {std} and {scale / _WHITE}; pass an .onnx file"
        )
    return Pixels(
        ((mean[0] + shift) / scale, (mean[1] + shift) / scale, (mean[2] + shift) / scale),
        (std[0] / scale, std[1] / scale, std[2] / scale),
        blue_first=bool(preprocessor.get("do_flip_channel_order")),
    )


def _channels(preprocessor: dict[str, Any], key: str, name: str) -> tuple[float, float, float]:
    """Return a number for each channel; without them, transformers' processors take 0.5."""
    found = preprocessor.get(key)
    if found is None or isinstance(found, int | float):
        found = [0.5 if found is None else found] * _CHANNELS
    if len(found) != _CHANNELS:
        raise InitError(f"{key} of '{name}' must have a number for each of 3 channels, got {found}; pass an .onnx file")
    red, green, blue = map(float, found)
    return red, green, blue


def _labels(configuration: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes; transformers' own default is two of them."""
    found = configuration.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return tuple(" ".join(str(found[key]).split()) for key in sorted(found, key=int))


def _output(ending: str, configuration: dict[str, Any], labels: tuple[str, ...], name: str) -> TensorSpec:
    if ending == "Model":
        return TensorSpec("embedding", "float32", ("batch", _width(configuration, name)))
    positions = ("sequence",) if ending == "ForTokenClassification" else ()
    return TensorSpec("logits", "float32", ("batch", *positions, len(labels)))


def _width(configuration: dict[str, Any], name: str) -> int:
    for key in ("hidden_size", "dim", "d_model"):
        if isinstance(width := configuration.get(key), int):
            return width
    raise InitError(
        f"{_CONFIGURATION} of '{name}' must have the hidden_size of the model, got none; pass an .onnx file"
    )
