"""Photographs that are unusual, damaged, or none, under names that are unusual too; and many at once."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

DROPPED = 200
EXIF_ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rotated(image: Image.Image) -> bytes:
    """Encode an image as a camera does that was held upright: pixels on their side, and a note to turn them."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # turn it clockwise to see it
    return encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def sixteen_bit(image: Image.Image) -> bytes:
    grey = np.asarray(image.convert("L"), np.uint16) * 257
    return encoded(Image.fromarray(grey), "PNG")


def bomb() -> bytes:
    """Encode the header of a PNG of 50,000 by 50,000 pixels, with next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def photograph(photographs: dict[str, Path]) -> Image.Image:
    """One that keeps its label without colours, but not on its side."""
    return Image.open(photographs["camera.png"]).convert("RGB")


def test_unusual_photographs_are_labelled(
    photos: Watched, photograph: Image.Image, accepted: dict[str, list[str]]
) -> None:
    images = {
        "upright.jpg": encoded(photograph, "JPEG", quality=95),
        "rotated.jpg": rotated(photograph),
        "on its side.jpg": encoded(photograph.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95),
        "16 bit.png": sixteen_bit(photograph),
        "grey.jpg": encoded(photograph.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(photograph.convert("CMYK"), "JPEG"),
        "palette.png": encoded(photograph.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        "alpha.webp": encoded(photograph.convert("RGBA"), "WEBP"),
    }
    for key, data in images.items():
        photos.put(key, data)
    assert photos.ends(images) == dict.fromkeys(images, "SUCCEEDED")
    labels = {key: photos.row(key)["prediction"]["label"] for key in images}
    assert labels["rotated.jpg"] == labels["upright.jpg"] != labels.pop("on its side.jpg")
    assert set(labels.values()) <= set(accepted["camera.png"]), labels


def test_what_cannot_be_decoded_is_rejected(photos: Watched, photograph: Image.Image) -> None:
    whole = encoded(photograph, "JPEG")
    damaged = {
        "text.jpg": (b"this is text", "not a JPEG, PNG"),
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
        "bomb.png": (bomb(), "50000 x 50000 pixels"),
        "empty.jpg": (b"", "object is empty"),
    }
    for key, (data, _) in damaged.items():
        photos.put(key, data)
    assert photos.ends(damaged) == dict.fromkeys(damaged, "REJECTED")
    for key, (_, reason) in damaged.items():
        row = photos.row(key)
        assert reason in row["reason"]
        assert "prediction" not in row
        assert row["inference"] in ("none", "cpu")


def test_unusual_keys_stay_as_they_are(photos: Watched, photograph: Image.Image) -> None:
    keys = [
        "with space.jpg",
        "with+plus.jpg",
        "50%.jpg",
        "with%20escape.jpg",
        "with%2Bescape+plus and space.jpg",
        "été/日本語/🐈.jpg",
        '"quotes" and \\ <$.body> {% $x %} {}.jpg',
        "a" * 1020 + ".jpg",
        "é" * 510 + ".jpg",
    ]
    assert [len(key.encode()) for key in keys[-2:]] == [1024, 1024]
    data = encoded(ImageOps.fit(photograph, (256, 256)), "JPEG")
    for key in keys:
        photos.put(key, data)
    assert photos.ends(keys) == dict.fromkeys(keys, "SUCCEEDED")
    for key in keys:
        row = photos.row(key)
        assert row["object"] == f"{photos.bucket}/{key}"


def variants(photographs: dict[str, Path], count: int) -> dict[str, bytes]:
    """Make different photographs out of a few: random crops, half of them mirrored."""
    random = np.random.default_rng(7)
    sources = [Image.open(path).convert("RGB") for _, path in sorted(photographs.items())]
    made = {}
    for number in range(count):
        source = sources[number % len(sources)]
        side = int(min(source.size) * random.uniform(0.7, 1))
        left, top = (int(random.integers(0, size - side + 1)) for size in source.size)
        crop = source.crop((left, top, left + side, top + side)).resize((320, 320))
        made[f"dropped/{number:03}.jpg"] = encoded(ImageOps.mirror(crop) if number % 2 else crop, "JPEG", quality=90)
    assert len(set(made.values())) == count
    return made


def test_200_photographs_at_once(
    photos: Watched, photographs: dict[str, Path], record_property: Callable[[str, object], None]
) -> None:
    dropped = variants(photographs, DROPPED)
    before = set(photos.executions())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(photos.put, dropped, dropped.values()))
    assert photos.ends(dropped) == dict.fromkeys(dropped, "SUCCEEDED")

    executions = set(photos.executions()) - before
    events = [event["type"] for execution in executions for event in photos.history(execution)]
    invocations = events.count("TaskScheduled")
    transitions = sum(kind.endswith("StateEntered") for kind in events)
    figures = (
        f"{len(executions)} executions, {invocations} invocations ({invocations / DROPPED:.3f} per photograph), "
        f"{transitions} state transitions ({transitions / DROPPED:.2f} per photograph)"
    )
    record_property(f"{DROPPED} photographs at once", figures)
    # One by one it would be one execution, three invocations and twelve transitions for each.
    assert invocations / DROPPED < 0.5
    assert transitions / DROPPED < 1.5
