"""Photographs of this repository, also mirrored, cut and darkened. Take yours instead, with their boxes."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from pixels import to_tensor

PHOTOGRAPHS = Path(__file__).parents[3] / "model_assets" / "efficientnet_lite"


def batches(folder):
    """Yield each photograph of a folder in four versions."""
    for path in sorted((PHOTOGRAPHS / folder).glob("*.jpg")):
        photograph = Image.open(path).convert("RGB")
        width, height = photograph.size
        versions = (
            photograph,
            ImageOps.mirror(photograph),
            photograph.crop((width // 4, 0, width * 3 // 4, height * 3 // 4)),
            ImageEnhance.Brightness(photograph).enhance(0.6),
        )
        yield {"images": np.stack([to_tensor(each) for each in versions])}


def calibration():
    """Yield what quantization measures its ranges on."""
    yield from batches("calibration")


def evaluation():
    """Yield what the gate looks at: without boxes that are right, those of float32 count."""
    yield from batches("evaluation")
