"""Objects for the buckets: real photographs, sentences, recordings and rows of numbers, with a broken one of each."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from verify.arm64.cases import COLUMNS, ROOT
from verify.arm64.runner import FunctionError, host_python

if TYPE_CHECKING:
    from verify.arm64.functions import Function

_PHOTOGRAPHS = ROOT / "model_assets" / "photographs"
_SENTENCES = ROOT / "model_assets" / "minilm" / "sentences.txt"
_VOWELS = ROOT / "model_assets" / "vowels_lstm" / "test.ts.gz"
_RECORDINGS = ROOT / "model_assets" / "spoken_digits" / "evaluation"
_ROWS = 3

# Runs with the package that reads such photographs: nothing else here can write them.
_HEIC = """
import sys
sys.path.insert(0, sys.argv[1])
import pillow_heif
from PIL import Image
pillow_heif.from_pillow(Image.open(sys.argv[2]).convert("RGB")).save(sys.argv[3], quality=80)
"""


def objects_for(pipeline: str, preprocess: Function) -> dict[str, bytes]:
    """Return the objects for a pipeline of the app, by key.

    Parameters
    ----------
    pipeline
        Its name.
    preprocess
        Its function that reads objects, built for this machine.
    """
    match pipeline:
        case "Photos" | "FusedPhotos":
            photos = {name: (_PHOTOGRAPHS / name).read_bytes() for name in ("chelsea.png", "dog.jpg", "coffee.png")}
            return {**photos, "broken.jpg": photos["dog.jpg"][:2000]}
        case "OwnPhotos":
            cat = _heic(preprocess, _PHOTOGRAPHS / "chelsea.png")
            dog = (_PHOTOGRAPHS / "dog.jpg").read_bytes()
            return {"pets/cat.heic": cat, "pets/dog.jpg": dog, "pets/broken.heic": cat[: len(cat) // 2]}
        case "Sentences":
            lines = _SENTENCES.read_text(encoding="utf-8").splitlines()
            texts = [*lines[:2], "Ein Käfer läuft über den Fußweg: 走, 🪲.", " ".join(lines[:40])]
            return {**{f"{n}.txt": text.encode() for n, text in enumerate(texts)}, "broken.txt": b"\xff\xfe caf\xe9"}
        case "Json" | "Csv" | "Arrays":
            suffix, write, broken = _ROW_FORMATS[pipeline]
            return {**{f"{n}{suffix}": write(row) for n, row in enumerate(_frames())}, f"broken{suffix}": broken}
        case "Recordings":
            recordings = {file.name: file.read_bytes() for file in sorted(_RECORDINGS.iterdir())[:_ROWS]}
            return {**recordings, "broken.flac": next(iter(recordings.values()))[:2000]}
    raise KeyError(pipeline)


def _frames() -> list[list[float]]:
    """Return the first frames of utterances, each twelve numbers."""
    with gzip.open(_VOWELS, "rt", encoding="utf-8") as lines:
        series = [line.split(":") for line in lines if not line.startswith(("#", "@"))]
    return [[float(feature.split(",")[0]) for feature in features[:-1]] for features in series[:_ROWS]]


def _json(row: list[float]) -> bytes:
    return json.dumps(dict(zip(COLUMNS, row, strict=True))).encode()


def _csv(row: list[float]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, row])
    return text.getvalue().encode()


def _npy(row: list[float]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(row, np.float32))
    return file.getvalue()


def _heic(preprocess: Function, photograph: Path) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        code, target = preprocess.unpack(Path(name))[0], Path(name) / "photo.heic"
        done = subprocess.run(
            [*host_python(), "-I", "-S", "-c", _HEIC, str(code), str(photograph), str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise FunctionError(f"no HEIC file could be made: {done.stderr.strip().rpartition(chr(10))[2]}")
        return target.read_bytes()


_ROW_FORMATS = {
    "Json": (".json", _json, b'{"c0": 1}'),
    "Csv": (".csv", _csv, b"c0,c1\n1,2\n"),
    "Arrays": (".npy", _npy, b"\x93NUMPY"),
}
"""By pipeline: the suffix of its objects, what writes a row of numbers, and a broken object."""
