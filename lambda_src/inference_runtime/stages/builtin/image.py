"""Turns an image file into an RGB array of one size."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

# Imported by name: without this, the first WEBP or TIFF makes Pillow import all of its plugins.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.picture import PICTURE, Picture
from inference_runtime.stages.time_limit import TookTooLongError, call_within

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from inference_runtime.stages.item import Item

_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_ORIENTATION = 0x0112
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THEIR_SIDE = (5, 6, 7, 8)
_WHITE = (255, 255, 255)

_MAX_SIDE = 2_000_000
"""Pixels; resizing takes up to 48 bytes for each pixel of a side, however few the other side has."""

_MAX_SCANS = 100
"""Most scans of a JPEG. Encoders make 13 at most, and each goes over the whole image, however short it is."""

_MAX_SEGMENTS = 5_000
"""Most segments of a JPEG before its first scan. The largest blocks of metadata are cut into pieces of 64 KB."""

_MAX_CPU_SECONDS = 10.0
"""Most CPU seconds of decoding. The largest images of encoders take a third; chunks by the million take longer."""

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION, _SEPARATE = 258, 284, 2  # of TIFF
_BYTE = 8

# Markers of JPEG. The pattern leaves out what is in scans: bytes that are not markers, and restarts.
_START_OF_IMAGE, _SCAN, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_WITHOUT_LENGTH = (_START_OF_IMAGE, b"\xff\x01")
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def image_preprocessor(
    size: int = 224,
    resize: Literal["center_crop", "stretch", "pad"] = "center_crop",
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic",
    crop: float = 0.875,
    max_pixels: int = 64_000_000,
    locate: str | None = None,
) -> Callable[[bytes, Item], npt.NDArray[np.uint8] | dict[str, Any]]:
    """Return a preprocessing function for JPEG, PNG, WEBP, GIF, BMP and TIFF images.

    EXIF rotation is applied. Transparency is laid on white. Only the first frame of an animation counts. Channels of 16
    bits keep their upper 8 bits. Images of 32 bits are rejected, since they do not say which value is white. Files that
    take far longer than their size lets expect are rejected.

    Parameters
    ----------
    size
        Height and width of the result in pixels.
    resize
        `center_crop` takes the largest centred square, less a margin; `stretch` ignores the aspect ratio; `pad` fits
        the whole image and fills up with black.
    interpolation
        Filter for resizing; all but `nearest` average over the source pixels.
    crop
        For `center_crop`: side of the square, as a fraction of the shorter side.
    max_pixels
        Larger images are rejected from their header, before anything is decoded.
    locate
        Name of the model's input, to have the result say where in the picture its pixels are.

    Returns
    -------
    Callable
        `preprocess(data, item)`, returning uint8 of shape (size, size, 3), RGB. With `locate`, a dict with the array by
        that name, and a `Picture` as JSON, to be kept.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    if size < 1 or max_pixels < 1:
        raise ValueError(f"size is {size} and max_pixels is {max_pixels}, expected at least 1 of each")
    if not 0 < crop <= 1:
        raise ValueError(f"crop is {crop}, expected a fraction above 0 and at most 1")
    if resize not in ("center_crop", "stretch", "pad"):
        raise ValueError(f'resize is "{resize}", expected "center_crop", "stretch" or "pad"')
    if interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
        raise ValueError(f'interpolation is "{interpolation}", expected nearest, bilinear, bicubic or lanczos')
    resample = Image.Resampling[interpolation.upper()]

    def decode(data: bytes) -> tuple[Image.Image, int, Picture]:
        """Return the image at the size that is asked for, its orientation, and where in the picture it is."""
        try:
            _refuse_jpeg_of_many_parts(data)
            # Pillow's limit warns, ours refuses. Whoever tests several stages in a process may have set another.
            Image.MAX_IMAGE_PIXELS = None
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            _refuse_bomb(image, max_pixels)
            _refuse_wide_planes(image)
            # JPEG can be decoded at a fraction of its size, faster and in less memory. Three times what is needed
            # leaves nothing to see of it.
            full = image.size
            drafted = image.draft(image.mode, (math.ceil(3 * size / crop),) * 2)
            plain = _to_8_bit(image)
            # Only now: decoding a TIFF turns it and removes the tag.
            orientation = image.getexif().get(_ORIENTATION, 1)
        except (RejectItem, MemoryError):
            raise
        except UnidentifiedImageError as error:
            raise RejectItem(_unidentified(data)) from error
        except Exception as error:
            # Pillow's decoders raise anything on damaged files. The code is fixed, so the file is at fault.
            raise RejectItem(f"image cannot be decoded: {error}") from error
        # A pixel of a draft stands for as many of the picture, the last one of a row perhaps for fewer.
        pixels = 1.0 if drafted is None else full[0] / drafted[1][2]
        region = _region(plain.size, size, resize, crop)
        located = Picture(
            *(plain.size if drafted is None else full), (size, size), tuple(pixels * edge for edge in region)
        )
        return _fit(plain, size, resize, region, resample), orientation, located

    def preprocess(data: bytes, item: Item) -> npt.NDArray[np.uint8] | dict[str, Any]:  # noqa: ARG001 - see above
        try:
            small, orientation, located = call_within(_MAX_CPU_SECONDS, lambda: decode(data), cpu=True)
        except TookTooLongError as error:
            raise RejectItem(f"image takes longer than {error.seconds:.2g} s of CPU time to decode") from error
        if orientation in _TRANSPOSED:  # all ways to fit are symmetric, so turning the small image is enough
            small = small.transpose(_TRANSPOSED[orientation])
            located = located.turned() if orientation in _ON_THEIR_SIDE else located
        canvas = Image.new("RGB", (size, size))
        canvas.paste(_on_white(small), ((size - small.width) // 2, (size - small.height) // 2))
        array = np.asarray(canvas)
        return array if locate is None else {locate: array, PICTURE: located.to_json()}

    return preprocess


def _refuse_bomb(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise RejectItem(f"image has {width} x {height} pixels, at most {max_pixels:,} are decoded")
    if max(width, height) > _MAX_SIDE:
        raise RejectItem(f"image has {width} x {height} pixels, at most {_MAX_SIDE:,} a side are decoded")


def _refuse_jpeg_of_many_parts(data: bytes) -> None:
    """Refuse a JPEG that takes minutes for its size: libjpeg cannot be interrupted while it goes through scans."""
    if not data.startswith(_START_OF_IMAGE):
        return
    position, segments, scans = len(_START_OF_IMAGE), 0, 0
    while (found := _MARKER.search(data, position)) is not None and (marker := found[0]) != _END_OF_IMAGE:
        position = found.end()
        if marker in _WITHOUT_LENGTH:
            continue
        position += int.from_bytes(data[position : position + 2])
        if marker != _SCAN:
            segments += 1
        elif scans == 0 and data.count(_SCAN, position) < _MAX_SCANS:
            return  # most files: whether these are scans or parts of segments does not matter
        else:
            scans += 1
        if scans > _MAX_SCANS:
            raise RejectItem(f"JPEG has more than {_MAX_SCANS} scans")
        if segments > _MAX_SEGMENTS:
            raise RejectItem(f"JPEG has more than {_MAX_SEGMENTS:,} segments")


def _refuse_wide_planes(image: Image.Image) -> None:
    """Refuse what Pillow reads as if each sample had 8 bits."""
    tags = getattr(image, "tag_v2", {})
    raw = any(tile[0] == "raw" for tile in getattr(image, "tile", ()))
    if raw and tags.get(_PLANAR_CONFIGURATION) == _SEPARATE and max(tags.get(_BITS_PER_SAMPLE, (1,))) > _BYTE:
        raise RejectItem("TIFF has planes of more than 8 bits a sample: store the channels together, or as 8 bits")


def _unidentified(data: bytes) -> str:
    found = [name for signature, name in _SIGNATURES.items() if data.startswith(signature)]
    if found or data[8:12] == b"WEBP":
        return f"{(found or ['WEBP'])[0]} image cannot be decoded: it is damaged, or of a kind that is not supported"
    return f"not a {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} image"


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Decode, and return the image as L, LA, RGB or RGBA."""
    image.load()
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise RejectItem("image has 32 bits a channel, which do not say what white is: convert it to 8 or 16 bits")
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _region(full: tuple[int, int], size: int, how: str, crop: float) -> tuple[float, float, float, float]:
    """Return the rectangle of an image that is to be seen, in its pixels; `pad` shows more than there is."""
    width, height = full
    if how == "stretch":
        return 0, 0, width, height
    if how == "pad":
        across, down = _padded(full, size)
        left, top = -((size - across) // 2) * width / across, -((size - down) // 2) * height / down
        return left, top, left + size * width / across, top + size * height / down
    side = min(width, height) * crop
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _padded(full: tuple[int, int], size: int) -> tuple[int, int]:
    scale = size / max(full)
    return max(1, round(full[0] * scale)), max(1, round(full[1] * scale))


def _fit(
    image: Image.Image,
    size: int,
    how: str,
    region: tuple[float, float, float, float],
    resample: Image.Resampling,
) -> Image.Image:
    """Resize straight from the source rectangle: an intermediate image could be huge."""
    if how == "pad":
        return image.resize(_padded(image.size, size), resample)
    return image.resize((size, size), resample, box=region)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("LA", "RGBA"):
        canvas = Image.new("RGBA", image.size, _WHITE)
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image.convert("RGB")
