"""The columns of exported files: those of the row, whatever the model predicts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from inference_runtime.stages.answers import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference_runtime.export.rows import Row

_TIME = pa.timestamp("ms", tz="UTC")
_LARGEST_SIZE = 2**63 - 1

TEXTS = (
    "object",
    "bucket",
    "key",
    "version",
    "status",
    "model_version",
    "label",
    "route",
    "variant",
    "inference",
    "reason",
    "id",
    "etag",
    "sequencer",
    "answer_sha256",
)
"""Columns of text, as the row has them."""

JSONS = ("prediction", "kept", "first", "explanation")
"""Columns of JSON: maps of a row, whose members differ from model to model."""

SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in TEXTS),
        pa.field("size", pa.int64()),
        pa.field("confidence", pa.float64()),
        pa.field("recorded_at", _TIME),
        pa.field("event_time", _TIME),
        pa.field("expires_at", _TIME),
        *(pa.field(name, pa.string()) for name in JSONS),
    ]
)
"""The same in every file: a row without a value has a null."""


def record_of(row: Row) -> dict[str, Any]:
    """Return the values of a row by column; those that the row does not have are missing."""
    found = {name: row[name]["S"] for name in TEXTS if name in row}
    found |= {name: read(row[name]) for name, read in _OTHERS.items() if name in row}
    found.setdefault("label", _label(row))
    return found


def _label(row: Row) -> str | None:
    """Return the label of the prediction: only tables with an index of labels have it as an attribute."""
    label = row.get("prediction", {}).get("M", {}).get("label", {}).get("S")
    return label if isinstance(label, str) else None


def _time(attribute: dict[str, Any]) -> datetime | None:
    """Return a time, or None if it is not readable: messages may have any text as theirs."""
    try:
        found = datetime.fromisoformat(attribute["S"])
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # the year may be 0 or 10000 in UTC
        return None


def _size(attribute: dict[str, Any]) -> int | None:
    """Return a size, or None if the column does not hold it: earlier versions took any from a message."""
    found = int(attribute["N"])
    return found if found <= _LARGEST_SIZE else None


def _json(attribute: dict[str, Any]) -> str:
    return json.dumps(plain(attribute), ensure_ascii=False, separators=(",", ":"))


_OTHERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "size": _size,
    "confidence": lambda attribute: float(attribute["N"]),
    "recorded_at": _time,
    "event_time": _time,
    "expires_at": lambda attribute: datetime.fromtimestamp(int(attribute["N"]), UTC),
    **dict.fromkeys(JSONS, _json),
}
