"""Reads photographs, and keeps where in them the network looked, for the boxes."""

import io

from PIL import Image, ImageOps
from pixels import SIZE, to_tensor

from inference_runtime import RejectItem

Image.MAX_IMAGE_PIXELS = 50_000_000  # Pillow refuses twice as many before it decodes them


def preprocess(data, item):
    """Return the network's input, and the part of the photograph that it shows."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as file:
            photograph = ImageOps.exif_transpose(file)
            images = to_tensor(photograph)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RejectItem(f"not a photograph: {error}") from error
    side = max(photograph.size)
    picture = {
        "width": photograph.width,
        "height": photograph.height,
        "input": [SIZE, SIZE],
        "region": [0, 0, side, side],
    }
    return {"images": images, "picture": picture}
