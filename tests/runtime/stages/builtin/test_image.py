"""Image preprocessing: whatever people upload, damaged or hostile, gives an array or a reason."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.image import image_preprocessor
from inference_runtime.stages.builtin.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 32
plain = image_preprocessor(size=SIZE, crop=1.0)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def gradient(width: int = 64, height: int = 64) -> Image.Image:
    """Red grows to the right, green downwards: every corner differs."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 40)], axis=-1).astype(np.uint8))


def difference(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - two.astype(float)).mean())


expected = np.asarray(gradient().resize((SIZE, SIZE), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 4),
        ("JPEG", {"quality": 95}, 2),
        ("JPEG", {"quality": 95, "progressive": True}, 2),
        ("GIF", {}, 12),
    ],
)
def test_formats(kind: str, options: dict[str, Any], tolerance: float) -> None:
    result = plain(encode(gradient(), kind, **options), None)
    assert result.dtype == np.uint8
    assert result.shape == (SIZE, SIZE, 3)
    assert difference(result, expected) <= tolerance


def test_16_bit_png_is_scaled() -> None:
    wide = (np.asarray(gradient().convert("L")).astype(np.uint16) << 8) | 0x7F
    image = Image.fromarray(wide)
    assert image.mode == "I;16"
    grey = np.asarray(gradient().convert("L").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    for kind in ("PNG", "TIFF"):
        result = plain(encode(image, kind), None)
        assert difference(result, np.repeat(grey[..., None], 3, axis=-1)) == 0


def test_16_bit_colour_png_is_scaled() -> None:
    rgb = np.asarray(gradient())
    samples = (rgb.astype(">u2") << 8).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in samples)
    data = png(64, 64, bits=16, colour=2, idat=zlib.compress(lines))
    np.testing.assert_array_equal(plain(data, None), expected)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_images_are_rejected(mode: str) -> None:
    with pytest.raises(RejectItem, match="32 bits"):
        plain(encode(Image.new(mode, (8, 8), 1), "TIFF"), None)


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("L", "JPEG"), ("1", "PNG"), ("1", "TIFF"), ("LA", "PNG")])
def test_greyscale_becomes_three_equal_channels(mode: str, kind: str) -> None:
    result = plain(encode(gradient().convert("L").convert(mode), kind), None)
    np.testing.assert_array_equal(result[..., 0], result[..., 1])
    np.testing.assert_array_equal(result[..., 0], result[..., 2])
    assert result.std() > 10


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(kind: str) -> None:
    result = plain(encode(gradient().convert("CMYK"), kind), None)
    assert difference(result, expected) < 4


def test_a_palette_keeps_its_colours() -> None:
    data = encode(gradient().quantize(256), "PNG")
    assert difference(plain(data, None), expected) < 8


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 10, 5))
    for data in (encode(image, "PNG"), encode(image, "WEBP", lossless=True), encode(image.quantize(4), "PNG")):
        result = plain(data, None)
        assert tuple(result[2, 16]) == (0, 0, 255)
        assert tuple(result[-2, 16]) == (255, 255, 255)


def test_a_transparent_palette_index_is_laid_on_white() -> None:
    image = Image.new("P", (10, 10), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(1, (0, 0, 10, 5))
    for kind in ("PNG", "GIF"):
        result = plain(encode(image, kind, transparency=0), None)
        assert tuple(result[2, 16]) == (0, 255, 0)
        assert tuple(result[-2, 16]) == (255, 255, 255)


def test_a_transparent_colour_without_alpha_channel_is_laid_on_white() -> None:
    image = Image.new("RGB", (10, 10), (1, 2, 3))
    result = plain(encode(image, "PNG", transparency=(1, 2, 3)), None)
    assert (result == 255).all()


@pytest.mark.parametrize("how", ["center_crop", "stretch", "pad"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [  # all formats that Pillow writes EXIF for
        ("PNG", {}),
        ("JPEG", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_exif_rotation_is_undone(kind: str, options: dict[str, Any], orientation: int, how: Any) -> None:
    upright = gradient(80, 48)
    inverse = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    stored = upright
    for step in inverse:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    function = image_preprocessor(size=SIZE, resize=how)
    wanted = function(encode(upright, kind, **options), None)
    assert difference(function(encode(stored, kind, exif=exif, **options), None), wanted) < 1.5


def test_a_broken_exif_block_does_not_matter() -> None:
    data = encode(gradient(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\xff\xff" * 8)
    assert plain(data, None).shape == (SIZE, SIZE, 3)


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
        assert tuple(plain(data, None)[5, 5]) == (255, 0, 0)


@pytest.mark.parametrize("how", ["center_crop", "stretch", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (5000, 1), (1, 5000), (2, 4999)])
def test_tiny_and_elongated_images_work(shape: tuple[int, int], how: Any) -> None:
    function = image_preprocessor(size=SIZE, resize=how)
    result = function(encode(Image.new("RGB", shape, (10, 200, 30)), "PNG"), None)
    assert result.shape == (SIZE, SIZE, 3)
    assert (result == [10, 200, 30]).all(axis=-1).any()


@pytest.mark.parametrize("how", ["center_crop", "stretch", "pad"])
def test_an_elongated_image_is_made_small_at_once(how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image in between is larger than the file's, nor than the result."""
    data = encode(Image.new("L", (2_000_000, 2)), "PNG")
    made: list[int] = []
    new = Image.Image._new

    def noted(self: Image.Image, im: Any) -> Image.Image:
        made.append(im.size[0] * im.size[1])
        return new(self, im)

    monkeypatch.setattr(Image.Image, "_new", noted)
    assert image_preprocessor(size=224, resize=how)(data, None).shape == (224, 224, 3)
    assert made
    assert max(made) <= 224 * 224


@pytest.mark.performance
def test_an_elongated_image_takes_no_time() -> None:
    data = encode(Image.new("L", (2_000_000, 2)), "PNG")
    start = time.process_time()
    image_preprocessor(size=224)(data, None)
    assert time.process_time() - start < 1


def test_center_crop_takes_the_middle() -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste((0, 0, 255), (100, 0, 200, 100))
    data = encode(image, "PNG")
    assert (image_preprocessor(size=SIZE, crop=0.9)(data, None) == [0, 0, 255]).all()
    assert (image_preprocessor(size=SIZE, resize="stretch")(data, None) == [255, 0, 0]).all(axis=-1).mean() > 0.5


def test_center_crop_equals_resizing_then_cropping() -> None:
    image = gradient(320, 256)
    usual = image.resize((320 * 256 // 256, 256), Image.Resampling.BICUBIC).crop((48, 16, 272, 240))
    result = image_preprocessor(size=224, crop=0.875)(encode(image, "PNG"), None)
    assert difference(result, np.asarray(usual)) < 0.5


def test_pad_keeps_everything_and_adds_black() -> None:
    data = encode(Image.new("RGB", (100, 50), "white"), "PNG")
    result = image_preprocessor(size=SIZE, resize="pad")(data, None)
    assert (result[:8] == 0).all()
    assert (result[8:24] == 255).all()
    assert (result[24:] == 0).all()


def test_decoding_a_large_jpeg_at_a_fraction_leaves_nothing_to_see() -> None:
    x, y = np.meshgrid(np.arange(1600), np.arange(1200))
    busy = np.stack([128 + 90 * np.sin(x / 21), 128 + 90 * np.sin(y / 17), 128 + 60 * np.sin((x + y) / 31)], axis=-1)
    image = Image.fromarray(busy.astype(np.uint8))
    jpeg = encode(image, "JPEG", quality=90)
    whole = encode(Image.open(io.BytesIO(jpeg)).convert("RGB"), "PNG")
    function = image_preprocessor(size=64)
    assert difference(function(jpeg, None), function(whole, None)) < 1.5


def png(width: int, height: int, *, bits: int = 8, colour: int = 2, idat: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = png(50_000, 50_000, idat=zlib.compress(bytes(1_000_000)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it is decoded"))
    tracemalloc.start()
    try:
        with pytest.raises(RejectItem, match=r"image has 50000 x 50000 pixels, at most 64,000,000 are decoded"):
            plain(bomb, None)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "JPEG", "WEBP"])
def test_the_limit_holds_for_every_format(kind: str) -> None:
    data = encode(Image.new("RGB", (40, 30)), kind)
    assert image_preprocessor(size=8, max_pixels=1200)(data, None).shape == (8, 8, 3)
    with pytest.raises(RejectItem, match="40 x 30"):
        image_preprocessor(size=8, max_pixels=1199)(data, None)


@pytest.mark.parametrize("how", ["center_crop", "stretch", "pad"])
@pytest.mark.parametrize("shape", [(2_000_001, 1), (1, 2_000_001)])
def test_a_side_that_resizing_takes_gigabytes_for_is_refused(
    shape: tuple[int, int], how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it is decoded"))
    with pytest.raises(RejectItem, match=r"at most 2,000,000 a side are decoded"):
        image_preprocessor(resize=how)(png(*shape), None)


def with_scans(count: int, *before: bytes) -> bytes:
    """Return a progressive JPEG of which the last scan comes so many times, each time after some segments."""
    data = encode(gradient(), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + b"".join([*before, data[at:-2]]) * count + b"\xff\xd9"


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = encode(gradient(), "JPEG", progressive=True).count(b"\xff\xda")
    assert usual < 20
    assert plain(with_scans(100 - usual + 1), None).shape == (SIZE, SIZE, 3)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it is decoded"))
    for before in ([], [b"\xff\xfe\0\x08\xff\xd9\xff\xd9\xff\xd9"], [b"\xff\x01"]):  # nothing of which ends it
        with pytest.raises(RejectItem, match="JPEG has more than 100 scans"):
            plain(with_scans(101, *before), None)


def test_what_looks_like_scans_elsewhere_does_not_count() -> None:
    data = encode(gradient(), "JPEG", progressive=True)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 800) + b"\xff\xda\0\2" * 200
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\2" * 200  # as telephones append it
    np.testing.assert_array_equal(plain(data[:2] + comment + data[2:] + film, None), plain(data, None))


def test_a_jpeg_of_many_segments_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(gradient(), "JPEG")
    exif = b"\xff\xe1\0\x09Exif\0\0x"
    assert plain(data[:2] + 4000 * exif + data[2:], None).shape == (SIZE, SIZE, 3)
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("it is read"))
    with pytest.raises(RejectItem, match="JPEG has more than 5,000 segments"):
        plain(data[:2] + 220_000 * exif + data[2:], None)


def storm_of_png_chunks() -> bytes:
    data = encode(gradient(), "PNG")
    at = data.index(b"IDAT") - 4
    return data[:at] + 200_000 * (b"\0\0\0\0prVt" + struct.pack(">I", zlib.crc32(b"prVt"))) + data[at:]


def storm_of_gif_comments() -> bytes:
    data = encode(gradient().quantize(4), "GIF")
    at = data.index(b",\0\0\0\0\x40\0\x40\0")
    return data[:at] + 500_000 * b"!\xfe\x01x\0" + data[at:]


def storm_of_bmp_runs() -> bytes:
    body = 2_000_000 * b"\1\0"
    header = struct.pack("<IiiHHIIiiII", 40, 30_000, 2000, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078) + header + bytes(1024) + body


def storm_of_jpeg_padding() -> bytes:
    return b"\xff\xd8" + 3_000_000 * b"\xff"


@pytest.mark.parametrize(
    "storm", [storm_of_png_chunks, storm_of_gif_comments, storm_of_bmp_runs, storm_of_jpeg_padding]
)
def test_a_file_of_tiny_parts_is_rejected_when_it_takes_too_long(
    storm: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = storm()
    monkeypatch.setattr("inference_runtime.stages.builtin.image._MAX_CPU_SECONDS", 0.05)
    # Where the garbage collector calls back, an interruption is lost, and the next one must come in time.
    monkeypatch.setattr("inference_runtime.stages.time_limit._AGAIN", 0.05)
    with pytest.raises(RejectItem, match=r"image takes longer than 0.05 s of CPU time to decode"):
        plain(data, None)


def planar_tiff(bits: int, channels: int, compression: int = 1) -> bytes:
    """Return a TIFF with one plane for each channel, each plane of one grey."""
    side = 16
    planes = [side * side * (40 * (n + 1)).to_bytes(bits // 8, "little") for n in range(channels)]
    planes = [zlib.compress(plane) if compression == 8 else plane for plane in planes]
    offsets = [8 + sum(map(len, planes[:n])) for n in range(channels)]
    tags = {256: [side], 257: [side], 258: [bits] * channels, 259: [compression], 262: [2 if channels == 3 else 1]}
    tags |= {273: offsets, 277: [channels], 278: [side], 279: [len(plane) for plane in planes], 284: [2]}
    start = 8 + sum(map(len, planes))
    entries, rest = b"", b""
    for tag, values in tags.items():
        short = tag in (258, 259, 262, 277, 284)
        body = struct.pack(f"<{len(values)}{'H' if short else 'I'}", *values)
        if len(body) > 4:
            rest += body
            body = struct.pack("<I", start + 6 + 12 * len(tags) + len(rest) - len(body))
        entries += struct.pack("<HHI4s", tag, 3 if short else 4, len(values), body)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4) + rest
    return b"II*\0" + struct.pack("<I", start) + b"".join(planes) + directory


def test_a_tiff_with_planes_is_read_or_says_that_its_planes_are_the_reason() -> None:
    assert (plain(planar_tiff(8, 3), None) == [40, 80, 120]).all()
    assert (plain(planar_tiff(8, 3, compression=8), None) == [40, 80, 120]).all()
    for channels in (1, 3):
        with pytest.raises(RejectItem, match="TIFF has planes of more than 8 bits a sample: store the channels"):
            plain(planar_tiff(16, channels), None)


def test_a_gif_frame_larger_than_its_screen_is_refused() -> None:
    data = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    at = data.index(b",\0\0\0\0\x08\0\x08\0")
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(RejectItem):
        plain(bytes(data), None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"hello",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"%PDF-1.7",
        b"<svg xmlns='x'/>",
        b"GIF89a",
        b"RIFF",
        b"RIFF\x04\0\0\0WEBP",
    ],
)
def test_what_is_no_image_is_rejected(data: bytes) -> None:
    known = data.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8")) or data.endswith(b"WEBP")
    with pytest.raises(RejectItem, match=r"image cannot be decoded: it is damaged" if known else "^not a JPEG"):
        plain(data, None)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "EPS"])
def test_formats_off_the_list_are_rejected(kind: str) -> None:
    with pytest.raises(RejectItem, match="not a JPEG, PNG, WEBP, GIF, BMP or TIFF image"):
        plain(encode(gradient(), kind), None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_rejected(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encode(noise, kind)
    with pytest.raises(RejectItem):
        plain(data[: len(data) // 2], None)


FILES = [encode(gradient(), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")]


@given(st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=12))
def test_damage_anywhere_gives_an_array_or_a_reason(data: bytes, damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for position, value in damage:
        damaged[position % len(data)] = value
    try:
        result = image_preprocessor(size=8, max_pixels=1_000_000)(bytes(damaged), None)
    except RejectItem:
        pass
    else:
        assert result.shape == (8, 8, 3)
        assert result.dtype == np.uint8


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 0}, "size is 0"),
        ({"crop": 0}, "crop is 0"),
        ({"crop": 1.1}, "crop is 1.1"),
        ({"resize": "fit"}, 'resize is "fit"'),
        ({"interpolation": "cubic"}, 'interpolation is "cubic"'),
        ({"max_pixels": 0}, "max_pixels is 0"),
    ],
)
def test_a_wrong_option_fails_and_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        image_preprocessor(**options)


def test_the_same_file_gives_the_same_bytes() -> None:
    data = encode(gradient(640, 480), "JPEG")
    results = {image_preprocessor()(data, None).tobytes() for _ in range(3)}
    assert len(results) == 1


def corners_of(array: np.ndarray) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom edge of what is white."""
    means = [array[..., 0].mean(axis=axis) for axis in (1, 0)]
    rows, columns = (np.flatnonzero(mean > mean.max() / 2) for mean in means)
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


@pytest.mark.parametrize("resize", ["center_crop", "stretch", "pad"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("width", "height"), [(1600, 1200), (901, 1203), (90, 40)])
def test_where_the_array_is_in_the_upright_picture(resize: str, orientation: int, width: int, height: int) -> None:
    """A white rectangle is found again, also in a JPEG that is decoded at a fraction of its size."""
    picture = Image.new("RGB", (width, height))
    across, down = (width, height) if orientation < 5 else (height, width)
    upright = (across * 0.4, down * 0.35, across * 0.55, down * 0.6)
    turn = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    canvas = Image.new("RGB", (across, down))
    box = tuple(round(edge) for edge in upright)
    canvas.paste((255, 255, 255), box)
    picture = canvas if turn[orientation] is None else canvas.transpose(turn[orientation])
    assert picture.size == (width, height)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture, "JPEG", quality=95, exif=exif)
    found = image_preprocessor(size=200, resize=resize, interpolation="bilinear", locate="image")(data, None)
    located = Picture.of(found)
    assert (located.width, located.height) == (across, down)
    placed = located.place(np.array([corners_of(found["image"])]), normalized=False)[0]
    pixel = max(located.region[2] - located.region[0], located.region[3] - located.region[1]) / 200
    np.testing.assert_allclose(placed, box, atol=max(1.6 * pixel, 0.5))
    np.testing.assert_array_equal(
        found["image"], image_preprocessor(size=200, resize=resize, interpolation="bilinear")(data, None)
    )


def test_a_tiff_that_is_turned_while_it_is_decoded_has_the_size_that_people_see() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(gradient(64, 32), "TIFF", exif=exif)
    found = image_preprocessor(size=SIZE, resize="stretch", locate="image")(data, None)
    assert found["picture"] == {"width": 32, "height": 64, "input": [SIZE, SIZE], "region": [0, 0, 32, 64]}
