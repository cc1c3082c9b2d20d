"""The hash of an answer, which is the same before and after DynamoDB has stored it."""

from __future__ import annotations

import base64
import hashlib
import json
from decimal import Context
from typing import Any

ATTRIBUTE = "answer_sha256"
"""The attribute of the row that has the hash."""

_NUMBERS = Context(prec=38)  # digits of DynamoDB's numbers


def answer_sha256(prediction: dict[str, Any]) -> str:
    """Return the SHA-256 of a prediction as a DynamoDB attribute, in hexadecimal digits.

    It is that of its canonical JSON: names sorted, bytes in base64, numbers without trailing zeros. DynamoDB gives
    back other spellings of a number than it was given.
    """
    text = json.dumps(_canonical(prediction), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def with_answer_hash(row: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a row with the hash of its prediction, if it has one."""
    return row if "prediction" not in row else {**row, ATTRIBUTE: {"S": answer_sha256(row["prediction"])}}


def _canonical(attribute: dict[str, Any]) -> dict[str, Any]:
    [(kind, value)] = attribute.items()
    if kind == "N":
        number = _NUMBERS.create_decimal(value).normalize(_NUMBERS)
        return {kind: str(number) if number else "0"}
    if kind == "B":
        return {kind: base64.b64encode(value).decode()}
    if kind == "L":
        return {kind: [_canonical(member) for member in value]}
    if kind == "M":
        return {kind: {name: _canonical(member) for name, member in value.items()}}
    return attribute
