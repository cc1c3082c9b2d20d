"""Entry point: ``python -m verify.explanations`` compares explanations with those of other libraries.

These are shap, captum and xaitk-saliency. All get the same model, the same item and the same values that hide parts, so
that the weights must be equal but for rounding. The exit code is 1 if they are not. It is 69 if the packages cannot be
downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from cdk_inference.bundling.bundle import lambda_source
from cdk_inference.model import build_model
from verify.models.packages import UnavailableError, installed

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[Any]

_UNAVAILABLE, _OTHER = 69, 1
_DIGITS = Path(__file__).parents[2] / "model_assets" / "digits_cnn"
_ITEMS = 10
_TOLERANCE = 1e-6
_SIDE = 2
"""Pixels of a cell's side, in pictures of 8 x 8."""
_FILL = 5
_CELLS = {"input": "x", "layout": "HW", "fill": [_FILL], "grid": 8 // _SIDE}
_CLASSES, _MASKS = 10, 400


def main() -> int:
    """Compare, and print the largest differences."""
    console = Console()
    try:
        sys.path.append(str(installed(requirements=Path(__file__).with_name("requirements.txt"))))
    except UnavailableError as error:
        console.print(f"explanations were not verified: {error}", soft_wrap=True, markup=False)
        return _UNAVAILABLE
    sys.path.append(str(lambda_source()))
    found = {
        "shap, exact Shapley values of a row": shapley(),
        "captum, occlusion of a digit": occlusion(),
        "xaitk-saliency, sliding windows over a digit": sliding_window(),
        "xaitk-saliency, RISE of a digit": rise(),
    }
    for name, difference in found.items():
        console.print(f"{name}: differs by {difference:.2g} at most, of {_ITEMS} items")
    return 0 if max(found.values()) <= _TOLERANCE else _OTHER


def shapley() -> float:
    """Return the largest difference from the exact values of shap, for a small network with 7 features."""
    import shap  # noqa: PLC0415 - found only now

    random = np.random.default_rng(0)
    first, second, base = random.normal(size=(7, 16)), random.normal(size=(16, 3)), random.normal(size=7)

    def scores(rows: Array) -> Array:
        return np.tanh(rows @ first) @ second

    names = [f"feature {number}" for number in range(7)]
    options = {"places": [("x", number) for number in range(7)], "fill": base.tolist(), "names": names}
    worst = 0.0
    for row in random.normal(size=(_ITEMS, 1, 7)):
        weights, place = _weights(scores, row, {"method": "shapley", "parts": "features", "options": options})
        judge = shap.explainers.Exact(lambda rows, at=place: _softmax(scores(rows))[:, at], base[None])
        worst = max(worst, float(np.abs(judge(row).values[0] - weights).max()))
    return worst


def occlusion() -> float:
    """Return the largest difference from the occlusion of captum, for the deployed model of digits."""
    import torch  # noqa: PLC0415 - found only now, as the next one
    from captum.attr import Occlusion  # noqa: PLC0415

    scores, images = _digits()

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(_softmax(scores(images.numpy().astype(np.uint8))))

    worst = 0.0
    for image in images:
        weights, place = _weights(scores, image, {"method": "occlusion", "parts": "cells", "options": _CELLS})
        found = Occlusion(forward).attribute(
            torch.from_numpy(image.astype(np.float32)),
            sliding_window_shapes=(_SIDE, _SIDE),
            strides=(_SIDE, _SIDE),
            baselines=float(_FILL),
            target=place,
        )
        worst = max(worst, float(np.abs(_cells(found.numpy()[0]) - weights).max()))
    return worst


def sliding_window() -> float:
    """Return the largest difference from the sliding windows of xaitk-saliency, which scales the weightiest to 1."""
    from verify.explanations import xaitk  # noqa: PLC0415 - found only now

    scores, images = _digits()
    classifier = xaitk.Classifier(lambda images: _softmax(scores(images)), _CLASSES)
    worst = 0.0
    for image in images:
        weights, place = _weights(scores, image, {"method": "occlusion", "parts": "cells", "options": _CELLS})
        found = _cells(xaitk.sliding_window(classifier, image[0], _SIDE, _FILL)[place])
        worst = max(worst, float(np.abs(found - weights / np.abs(weights).max()).max()))
    return worst


def rise() -> float:
    """Return the largest difference from the RISE of xaitk-saliency with the same masks, scaled in the same way."""
    from verify.explanations import xaitk  # noqa: PLC0415 - found only now

    scores, images = _digits()
    classifier = xaitk.Classifier(lambda images: _softmax(scores(images)), _CLASSES)
    random, count = Random(0), (8 // _SIDE) ** 2  # noqa: S311 - as the functions draw them
    hidden = [random.getrandbits(count) for _ in range(_MASKS // 2)]
    shown = np.array([[not mask >> cell & 1 for cell in range(count)] for mask in hidden])
    both = np.stack([shown, ~shown], axis=1).reshape(_MASKS, 8 // _SIDE, 8 // _SIDE)
    masks = both.repeat(_SIDE, axis=1).repeat(_SIDE, axis=2)
    settings = {"method": "rise", "masks": _MASKS, "parts": "cells", "options": _CELLS}
    worst = 0.0
    for image in images:
        weights, place = _weights(scores, image, settings)
        found = _cells(xaitk.rise(classifier, image[0], masks, _FILL)[place])
        worst = max(worst, float(np.abs(found - weights / np.abs(weights).max()).max()))
    return worst


def _digits() -> tuple[Callable[[Array], Array], Array]:
    """Return the deployed model of digits, and pictures for it, each with a batch axis of 1."""
    import onnxruntime as ort  # noqa: PLC0415 - found only now

    session = ort.InferenceSession(build_model(_DIGITS / "recipe.py", frozen_lock=True).path / "model.onnx")
    table = np.loadtxt(_DIGITS / "digits.csv.gz", delimiter=",", dtype=np.uint8)
    images = table[-_ITEMS:, :-1].reshape(-1, 1, 8, 8)
    return lambda batch: np.asarray(session.run(None, {"images": batch})[0]), images


def _cells(pixels: Array) -> Array:
    """Return the value of each cell, of a picture in which those of its pixels are equal."""
    return np.asarray(pixels[::_SIDE, ::_SIDE].reshape(-1))


def _weights(scores: Callable[[Array], Array], item: Array, settings: dict[str, Any]) -> tuple[Array, int]:
    """Return the weights that the functions find, and the class that they explain."""
    from inference_runtime.explanations.explainer import Explainer  # noqa: PLC0415 - found only now
    from inference_runtime.tensors.tensor import tensors_of  # noqa: PLC0415

    common = {"when": "always", "seconds": 60, "output": "y", "target": "class", "baseline": "mean"}
    explainer = Explainer(lambda inputs: tensors_of({"y": scores(inputs["x"].array())}), common | settings)
    target = explainer.target_of(tensors_of({"y": scores(item)})["y"])
    parts = explainer.parts_of(tensors_of({"x": item}))
    _, found, _ = explainer.weights(parts, explainer.runs(parts, target))
    return np.array(found), target.described()["class_index"]


def _softmax(values: Array) -> Array:
    exponentials = np.exp(values.astype(np.float64) - values.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


if __name__ == "__main__":
    sys.exit(main())
