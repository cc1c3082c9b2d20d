"""Inspects a model of timm by its configuration; its weights are downloaded when it is built."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Any

from cdk_inference.init.errors import InitError
from cdk_inference.init.model import InspectedModel, Pixels
from cdk_inference.model.recipe.tensors import TensorSpec

_FACTORY = "factory.py"
_CHANNELS = 3


def inspect_timm_model(name: str) -> InspectedModel:
    """Return what timm says of a model.

    Raises
    ------
    InitError
        timm cannot be imported, does not know the model, or the model takes other than square pictures with 3 channels.
    """
    try:
        import timm  # noqa: PLC0415 - an optional package
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        missing = isinstance(error, ModuleNotFoundError)
        fix = "install it: pip install timm" if missing else "install the torchvision that belongs to your torch"
        raise InitError(f"from needs timm for 'timm:{name}', got {type(error).__name__}: {error}; {fix}") from error
    if not timm.is_model(name):
        similar = ", ".join(get_close_matches(name.partition(".")[0], timm.list_models()))
        hint = f"try {similar}" if similar else "see timm.list_models()"
        raise InitError(f"from must be timm: and a model that timm knows, got 'timm:{name}'; {hint}")
    configuration: Any = timm.get_pretrained_cfg(name)
    channels, height, width = configuration.input_size
    classes = configuration.num_classes
    if channels != _CHANNELS or height != width or classes < 1:
        raise InitError(
            f"from must be timm: and a classifier of square pictures in color, got 'timm:{name}' with input "
            f"{configuration.input_size} and {classes} classes; export it to ONNX, and pass the file"
        )
    source = configuration.hf_hub_id
    return InspectedModel(
        source=f'TorchModule(factory="{_FACTORY}:build")',
        imports=("TorchModule",),
        inputs=(TensorSpec("pictures", "uint8", ("batch", height, height, 3)),),
        outputs=(TensorSpec("logits", "float32", ("batch", classes)),),
        origin=f"https://huggingface.co/{source}" if source else f"timm.create_model({json.dumps(name)})",
        license=_license(configuration),
        templates={_FACTORY: "factory_timm.py.j2"},
        values={"architecture": name, "pixels": Pixels(configuration.mean, configuration.std)},
        labels=_labels(classes),
        packages=("timm",),
        notes=("the weights have no revision; timm's version, which requirements.txt pins, chooses them",),
    )


def _license(configuration: Any) -> str:  # noqa: ANN401 - timm's
    found = str(configuration.license or "")
    return {"apache-2.0": "Apache-2.0", "mit": "MIT"}.get(found.lower(), found or "NOASSERTION")


def _labels(classes: int) -> tuple[str, ...]:
    from timm.data import ImageNetInfo  # noqa: PLC0415 - an optional package

    information = ImageNetInfo()
    if classes != information.num_classes():
        return ()
    return tuple(information.index_to_description(index).split(",")[0] for index in range(classes))
