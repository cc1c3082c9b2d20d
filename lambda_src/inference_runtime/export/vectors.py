"""The changes of a vector index that follow from changes of rows."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MAX_LABEL_BYTES = 512
"""Longest label in the metadata: that by which S3 Vectors filters has at most 2 KB a vector."""

_FLOAT_BYTES = 4


class VectorError(Exception):
    """The row's vector is not one that the index takes."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """The vectors that an index takes.

    Attributes
    ----------
    dimension
        Numbers of a vector.
    cosine
        Whether it compares directions, which a vector of zeros does not have.
    attribute
        The member of predictions that is the vector.
    """

    dimension: int
    cosine: bool
    attribute: str


def key_of(keys: dict[str, Any]) -> str:
    """Return the key of a row's vector: rows may have longer keys than vectors."""
    text = json.dumps([keys["object"]["S"], keys["version"]["S"]])
    return hashlib.sha256(text.encode()).hexdigest()


def vector_of(row: dict[str, Any], spec: IndexSpec) -> dict[str, Any] | None:
    """Return a row's vector as S3 Vectors takes it, or None if its prediction has none.

    Parameters
    ----------
    row
        As the stream of a table has it: with bytes in base64.
    spec
        The vectors that the index takes.

    Raises
    ------
    VectorError
        The prediction has one that the index does not take.
    """
    found = row.get("prediction", {}).get("M", {}).get(spec.attribute)
    if found is None:
        return None
    numbers = _numbers(found, spec.attribute)
    if len(numbers) != spec.dimension:
        raise VectorError(f"{spec.attribute} has {len(numbers):,} numbers, expected {spec.dimension:,}")
    if not all(map(math.isfinite, numbers)):
        raise VectorError(f"{spec.attribute} has a number that is not finite")
    if spec.cosine and not any(numbers):
        raise VectorError(f"{spec.attribute} has only zeros, which have no direction")
    texts = {name: row[name]["S"] for name in ("object", "version", "bucket", "status", "model_version")}
    label = row["prediction"]["M"].get("label", {}).get("S", "")
    if 0 < len(label.encode()) <= MAX_LABEL_BYTES:
        texts["label"] = label
    recorded_at = datetime.fromisoformat(row["recorded_at"]["S"]).timestamp()
    return {"key": key_of(row), "data": {"float32": numbers}, "metadata": {**texts, "recorded_at": recorded_at}}


def _numbers(attribute: dict[str, Any], name: str) -> list[float]:
    """Return the numbers of an embedding, packed float32, little-endian, or a list, as float32 has them."""
    [(kind, value)] = attribute.items()
    if kind == "B":
        data = base64.b64decode(value)
        if len(data) % _FLOAT_BYTES:
            raise VectorError(f"{name} has {len(data):,} bytes, expected a multiple of {_FLOAT_BYTES}")
    elif kind == "L" and all(member.keys() == {"N"} for member in value):
        try:
            data = struct.pack(f"<{len(value)}f", *(float(member["N"]) for member in value))
        except OverflowError as error:
            raise VectorError(f"{name} has a number that is too large for float32") from error
    else:
        raise VectorError(f"{name} is neither bytes nor a list of numbers")
    return list(struct.unpack(f"<{len(data) // _FLOAT_BYTES}f", data))
