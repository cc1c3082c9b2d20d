"""Photographs of this repository, and rendered texts."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).parent
TEXT = """
the quick brown fox jumps over a lazy dog while eight vexed wizards brew hot coffee and mix paint for jovial kings
Invoice Total Number Date Amount Order Street Berlin Paris 2026 17.50 3,140 A4-99 ID:7731 (copy)
"""
WORDS = TEXT.split()
FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif-Italic.ttf")


def photographs(kind: str) -> list[Image.Image]:
    """Return the photographs of a folder that is linked here: calibration, evaluation or photographs."""
    files = sorted(path for path in (FOLDER / kind).iterdir() if path.suffix in (".jpg", ".png"))
    return [Image.open(path).convert("RGB") for path in files]


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return one of the fonts that Matplotlib carries."""
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


def phrase(numbers: random.Random, words: int) -> str:
    """Return some words."""
    return " ".join(numbers.choice(WORDS) for _ in range(words))


def line(text: str, numbers: random.Random, height: int = 48) -> Image.Image:
    """Return a line of text, as cut out of a page: dark on bright or bright on dark, in some font."""
    face = font(numbers.choice(FONTS), numbers.randint(height // 2, height * 3 // 4))
    left, top, right, bottom = face.getbbox(text)
    ink, paper = numbers.sample([numbers.randint(0, 70), numbers.randint(180, 255)], 2)
    image = Image.new("RGB", (int(right - left) + 16, height), (paper, paper, paper))
    place = (8 - left, (height - (bottom - top)) / 2 - top)
    ImageDraw.Draw(image).text(place, text, (ink, ink // 2, ink), font=face)
    return image


def page(numbers: random.Random, size: int = 320, background: Image.Image | None = None) -> Image.Image:
    """Return a page with a few lines of text, on paper or on a photograph."""
    image = background.resize((size, size)) if background else Image.new("RGB", (size, size), (240, 238, 230))
    draw = ImageDraw.Draw(image)
    top = numbers.randint(8, 30)
    while top < size - 44:
        face = font(numbers.choice(FONTS), numbers.randint(16, 30))
        place = (numbers.randint(6, 60), top)
        stroke = 2 if background else 0
        draw.text(
            place, phrase(numbers, numbers.randint(1, 3)), "black", face, stroke_width=stroke, stroke_fill="white"
        )
        top += numbers.randint(44, 80)
    return image


def pixels(image: Image.Image) -> np.ndarray:
    """Return channels first, from -1 to 1."""
    return (np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1.0).astype(np.float32)
