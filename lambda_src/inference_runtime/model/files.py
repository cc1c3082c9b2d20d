"""Finds the function's model, wherever it was delivered to."""

from __future__ import annotations

import os
import sys

from inference_runtime.errors import StageError
from inference_runtime.model import DRIVER_FILE, MODEL_FILE

LAYER_FOLDER = "inference_model"
"""Name of the model's folder in a layer. It is in the layer's folder `python`, which Lambda puts onto `sys.path`."""


def model_path() -> str:
    """Return the path of the file that the model is opened by; files that belong to it lie next to it.

    It is `driver.json` for a model of several graphs, otherwise `model.onnx`.

    `MODEL_DELIVERY` says where it comes from. `package`, the default, is the function's own zip or image. The others
    are `layer` and `s3`. From S3 it is downloaded now, unless this environment has done so before.

    Raises
    ------
    StageError
        If the function is configured wrongly.
    RetryableError
        If S3 does not give the model as it was built.
    """
    delivery = os.environ.get("MODEL_DELIVERY", "package")
    if delivery == "package":
        if not (root := os.environ.get("LAMBDA_TASK_ROOT")):
            raise StageError("environment variable LAMBDA_TASK_ROOT is not set")
        folder = os.path.join(root, "model")  # noqa: PTH118 - pathlib takes milliseconds to import
    elif delivery == "layer":
        folder = _in_layer()
    elif delivery == "s3":
        from inference_runtime.model.download import downloaded_model  # noqa: PLC0415 - nobody else needs it

        folder = downloaded_model()
    else:
        raise StageError(f'MODEL_DELIVERY is "{delivery}", expected "package", "layer" or "s3"')
    driver = os.path.join(folder, DRIVER_FILE)  # noqa: PTH118
    return driver if os.path.isfile(driver) else os.path.join(folder, MODEL_FILE)  # noqa: PTH113, PTH118


def _in_layer() -> str:
    for entry in sys.path:
        folder = os.path.join(entry, LAYER_FOLDER)  # noqa: PTH118
        if any(os.path.isfile(os.path.join(folder, name)) for name in (MODEL_FILE, DRIVER_FILE)):  # noqa: PTH113, PTH118
            return folder
    raise StageError(f"no layer of the function has {LAYER_FOLDER}/{MODEL_FILE} in its folder python")
