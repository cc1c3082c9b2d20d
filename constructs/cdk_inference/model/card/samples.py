"""The first evaluation samples: what went in, and what both models answered."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from cdk_inference.common import figures
from cdk_inference.common.escaping import clean
from cdk_inference.model.card import boxes, comparison, formatting

if TYPE_CHECKING:
    from cdk_inference.model.card.comparison import Task
    from cdk_inference.model.card.entry import Array, Entry

MOST_SAMPLES = 12
ANSWERS = 3  # classes shown per sample and model
VALUES = 6  # numbers shown per sample and model

_LONGEST_SIDE = 320  # pixels of an embedded photograph
_LOSSLESS_UP_TO = 96  # pixels; JPEG would smear what is that small, and saves nothing
_NAME = 60


@dataclass(frozen=True)
class Picture:
    """An embedded image."""

    uri: str
    width: int
    height: int
    small: bool


@dataclass(frozen=True)
class Answer:
    """One line of what a model answered; `share` in [0, 1] is drawn as a bar."""

    text: str
    value: str
    share: float | None = None


@dataclass(frozen=True)
class Sample:
    """One sample with the answers of both models."""

    number: int
    picture: Picture | None
    description: str
    numbers: str
    label: str | None
    float32: list[Answer]
    deployed: list[Answer]
    differs: bool
    similarity: str | None


def samples(entry: Entry, task: Task | None) -> list[Sample]:
    """Return what can be shown of the first evaluation samples; empty if the build kept none."""
    count = min(MOST_SAMPLES, len(entry.numbers))
    if not count:
        return []
    pictures = _pictures(entry, count)
    numbers = entry.numbers[:count]
    answered = task is not None and max(numbers) < len(comparison.first_output(entry.float_outputs))
    float_answers, deployed_answers, labels = _answers(entry, task) if answered else ([], [], [None] * count)
    similarity = comparison.cosines(entry)[numbers].tolist() if answered and task == "similarity" else None
    result = []
    for index in range(count):
        before = float_answers[index] if answered else []
        after = deployed_answers[index] if answered else []
        if entry.boxes:
            before, after = (_found(entry, model, index) for model in ("float", "deployed"))
        described = entry.descriptions is not None and index < len(entry.descriptions)
        result.append(
            Sample(
                number=index + 1,
                picture=pictures[index] if pictures else None,
                description=entry.descriptions[index] if described and entry.descriptions else "",
                numbers="" if pictures or described else _numbers(entry, index),
                label=labels[index],
                float32=before,
                deployed=after,
                differs=boxes.differ(entry, index)
                if entry.boxes
                else bool(task != "regression" and before and after and before[0].text != after[0].text),
                similarity=f"cosine {figures.quality('cosine', similarity[index])}"
                if similarity and not entry.boxes
                else None,
            )
        )
    return result


def _found(entry: Entry, model: Literal["float", "deployed"], index: int) -> list[Answer]:
    scored = boxes.scored(entry, model, index)
    answers = [Answer(class_name(entry, place), f"{score * 100:.1f} %", score) for place, score in scored[:ANSWERS]]
    if len(scored) > ANSWERS:
        return [*answers, Answer(f"and {len(scored) - ANSWERS} more", "")]
    return answers or [Answer("nothing", "")]


def class_name(entry: Entry, index: int) -> str:
    """Return the name of a class, or its number where the recipe names none."""
    names = entry.report.class_names
    return clean(names[index], _NAME) if names and 0 <= index < len(names) and names[index] else f"class {index}"


def _answers(entry: Entry, task: Task | None) -> tuple[list[list[Answer]], list[list[Answer]], list[str | None]]:
    """Return the answers of both models to the samples, and their labels."""
    numbers = entry.numbers[:MOST_SAMPLES]
    both = [
        {name: array[numbers] for name, array in outputs.items()}
        for outputs in (entry.float_outputs, entry.deployed_outputs)
    ]
    labels: list[str | None] = [None] * len(numbers)
    if task == "classification":
        classes = comparison.class_labels(entry)
        if classes is not None:
            labels = [class_name(entry, c) for c in classes[numbers].tolist()]
        return _classes(entry, both[0]), _classes(entry, both[1]), labels
    if task == "regression":
        expected, _, kind = comparison.regression(entry)
        if kind == "label":
            labels = [_values(row) for row in expected[numbers]]
        return _rows(both[0]), _rows(both[1]), labels
    return _neighbours(entry, both[0]), _neighbours(entry, both[1]), labels


def _classes(entry: Entry, outputs: dict[str, Array]) -> list[list[Answer]]:
    scores = comparison.probabilities(comparison.first_output(outputs))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :ANSWERS]
    return [
        [
            Answer(class_name(entry, c), f"{row[c] * 100:.1f} %", float(row[c]) if rank == 0 else None)
            for rank, c in enumerate(chosen.tolist())
        ]
        for row, chosen in zip(scores, best, strict=True)
    ]


def _rows(outputs: dict[str, Array]) -> list[list[Answer]]:
    return [[Answer(_values(row), "")] for row in comparison.rows(outputs)]


def _values(row: Array) -> str:
    shown = ", ".join(f"{v:.4g}" for v in row[:VALUES].tolist())
    return f"{shown}, …" if len(row) > VALUES else shown


def _neighbours(entry: Entry, outputs: dict[str, Array]) -> list[list[Answer]]:
    """Return as a vector's answer which of the other samples it is closest to, in words where there are any."""
    if len(comparison.first_output(outputs)) == 1:
        return _rows(outputs)
    texts = entry.descriptions or []
    return [
        [
            Answer(
                f"closest to {other + 1}: {clean(texts[other], _NAME)}"
                if other < len(texts) and texts[other]
                else f"closest to sample {other + 1}",
                figures.quality("cosine", round(similarity, 3)),
            )
        ]
        for other, similarity in comparison.nearest(outputs)
    ]


def _numbers(entry: Entry, index: int) -> str:
    parts = []
    for name, array in entry.inputs.items():
        row = np.asarray(array[index]).reshape(-1)
        size = " \N{MULTIPLICATION SIGN} ".join(str(s) for s in array.shape[1:]) or "1"
        shown = ", ".join(f"{v:.4g}" if row.dtype.kind == "f" else str(v) for v in row[:VALUES].tolist())
        parts.append(f"{name} ({size}): {shown}{', …' if len(row) > VALUES else ''}")
    return clean("; ".join(parts))


def _pictures(entry: Entry, count: int) -> list[Picture]:
    """Return the samples as images, if exactly one input holds images."""
    layouts = {i.name: formatting.image_layout(i.dtype, i.shape) for i in entry.manifest.inputs}
    images = [(name, layout) for name, layout in layouts.items() if layout is not None and name in entry.inputs]
    if len(images) != 1:
        return []
    name, layout = images[0]
    pixels = entry.inputs[name][:count]
    if pixels.ndim != 4 or 0 in pixels.shape:  # noqa: PLR2004
        return []
    if layout == "NCHW":
        pixels = pixels.transpose(0, 2, 3, 1)
    return [_picture(p, entry, number) for number, p in enumerate(_to_uint8(pixels))]


def _to_uint8(pixels: Array) -> Array:
    """Return (n, height, width, channels) uint8; floats in [0, 1] or [0, 255] as they are, the others stretched."""
    if pixels.dtype == np.uint8:
        return pixels
    values = np.nan_to_num(pixels.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        values = values * 255
    elif not (low >= 0 and 64 < high <= 255):  # noqa: PLR2004
        low, high = np.quantile(values, [0.002, 0.998])  # normalised in a way that only the recipe knows
        values = (values - low) / max(high - low, 1e-12) * 255
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _picture(pixels: Array, entry: Entry, number: int) -> Picture:
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    channels = pixels.shape[2]
    if channels not in modes:  # a symbolic size turned out to be something else
        pixels, channels = pixels[:, :, :1], 1
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels), modes[channels])
    small = max(image.size) <= _LOSSLESS_UP_TO
    seen = image.size
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    if entry.boxes:
        image = boxes.drawn(entry, number, image, seen)
    stream = io.BytesIO()
    if small or channels == 4:  # noqa: PLR2004
        image.save(stream, "PNG", optimize=True)
    else:
        image.save(stream, "JPEG", quality=85, optimize=True)
    kind = "png" if small or channels == 4 else "jpeg"  # noqa: PLR2004
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/{kind};base64,{data}", image.width, image.height, small)
