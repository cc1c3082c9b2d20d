"""Read photographs as telephones take them (HEIC), and whatever Pillow reads."""

import io

import numpy as np
import pillow_heif
from PIL import Image, ImageOps

from inference_runtime import Item, RejectItem

SIZE = 224

Image.MAX_IMAGE_PIXELS = 50_000_000  # Pillow refuses twice as many before it decodes them
pillow_heif.register_heif_opener()


def preprocess(data: bytes, item: Item) -> np.ndarray:
    """Return the central square of the photograph, upright: (224, 224, 3) uint8 RGB."""
    if item.key.endswith("/"):
        raise RejectItem("a folder, not a photograph")
    try:
        with Image.open(io.BytesIO(data)) as photo:
            upright = ImageOps.exif_transpose(photo).convert("RGB")
    except (OSError, RuntimeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RejectItem(f"not a photograph: {error}") from error
    return np.asarray(ImageOps.fit(upright, (SIZE, SIZE), Image.Resampling.BICUBIC))
