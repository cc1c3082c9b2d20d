"""Draws the boxes of a photograph.

`python -m cdk_inference.local put photo.jpg --wait --json | python draw.py photo.jpg found.png`
"""

import json
import sys

from PIL import Image, ImageDraw, ImageOps

COLORS = ("#d1495b", "#00798c", "#edae49", "#30638e")


def draw(photograph, detections):
    """Return the photograph with a box, a label and a score for each find."""
    drawn = ImageOps.exif_transpose(photograph).convert("RGB")
    pen = ImageDraw.Draw(drawn)
    for find in detections:
        color = COLORS[find["class_index"] % len(COLORS)]
        left, top, right, bottom = map(float, find["box"])
        pen.rectangle((left, top, right, bottom), outline=color, width=3)
        text = f"{find['label']} {float(find['score']):.2f}"
        pen.rectangle(pen.textbbox((left, top), text), fill=color)
        pen.text((left, top), text, fill="white")
    return drawn


if __name__ == "__main__":
    found = json.loads(sys.stdin.readline())
    draw(Image.open(sys.argv[1]), found["prediction"]["detections"]).save(sys.argv[2])
