"""Rows of the results table: their attributes, in DynamoDB's types, and how they are written."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference_runtime.stages.item import Item

    Attribute = dict[str, Any]

MAX_PREDICTION_BYTES = 300_000
"""Largest prediction, as DynamoDB counts: a row may have 400 KB, and keys and reason need some."""

MAX_LABEL_BYTES = 2048
"""Largest label that an index takes: a key of DynamoDB has no more."""

MAX_DEPTH = 28
"""Levels of a value: DynamoDB nests 32 deep."""

_MAX_DIGITS = 38
_SMALLEST = 1e-130
_LARGEST = 9.99e125


class ResultError(Exception):
    """The return value of the user's function cannot be stored."""


def prediction_attribute(prediction: object) -> Attribute:
    """Return a prediction as a DynamoDB map.

    Raises
    ------
    ResultError
        If it is not a dict, holds what DynamoDB has no type for, or is too large.
    """
    if not isinstance(prediction, dict):
        raise ResultError(f"postprocess returned {type(prediction).__name__}, expected a dict")
    attribute = _attribute(prediction, "prediction", MAX_DEPTH)
    if (size := size_of(attribute)) > MAX_PREDICTION_BYTES:
        raise ResultError(f"result is {size:,} bytes, at most {MAX_PREDICTION_BYTES:,} fit a row")
    return attribute


def kept_attribute(values: dict[str, Any]) -> Attribute:
    """Return the values of an item that its preprocessing kept as a DynamoDB map.

    Raises
    ------
    ResultError
        If they hold what DynamoDB has no type for.
    """
    return _attribute(values, "kept", MAX_DEPTH)


def with_explanations(
    outcomes: Mapping[int, dict[str, Any]], explanations: Mapping[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Return the outcomes with explanations of those that have a prediction.

    An explanation of a class gets the prediction's label.

    Parameters
    ----------
    outcomes
        By index, as `row` takes them.
    explanations
        By index, as JSON.
    """
    found = dict(outcomes)
    for index, explanation in explanations.items():
        if "prediction" not in (outcome := outcomes.get(index, {})):
            continue
        label = outcome["prediction"]["M"].get("label", {}).get("S")
        named = {"label": label} if label is not None and "class_index" in explanation else {}
        found[index] = {**outcome, "explanation": {**explanation, **named}}
    return found


def row(
    item: Item,
    *,
    status: str,
    model_version: str,
    inference: str,
    recorded_at: str,
    prediction: Attribute | None = None,
    reason: str | None = None,
    expires_at: int | None = None,
    row_version: str | None = None,
    route: str | None = None,
    variant: str | None = None,
    confidence: float | None = None,
    first: Attribute | None = None,
    explanation: dict[str, Any] | None = None,
) -> dict[str, Attribute]:
    """Return the row for an item's result, in DynamoDB's types.

    Parameters
    ----------
    status
        SUCCEEDED (with a prediction), REJECTED or FAILED (with a reason).
    recorded_at
        ISO 8601.
    expires_at
        When the row may be deleted, in seconds since the epoch.
    row_version
        Stands in the sort key for the model's version, where several models write one row.
    route, variant
        Which of the pipeline's routes the item took, and which variant of an experiment it is in.
    confidence
        How sure the model was.
    first
        The earlier answer of another model, see `answers`.
    explanation
        Why the model answered so, as JSON.
    """
    strings = {
        "object": f"{item.bucket}/{item.key}",
        "version": f"{item.version_id or 'null'}#{row_version or model_version}",
        "id": item.id,
        "bucket": item.bucket,
        "key": item.key,
        "etag": item.etag,
        "sequencer": item.sequencer,
        "event_time": item.event_time,
        "status": status,
        "model_version": model_version,
        "inference": inference,
        "recorded_at": recorded_at,
        "reason": reason,
        "route": route,
        "variant": variant,
    }
    attributes: dict[str, Attribute] = {name: {"S": string} for name, string in strings.items() if string is not None}
    attributes["size"] = {"N": str(item.size)}
    if prediction is not None:
        attributes["prediction"] = prediction
    if confidence is not None:
        attributes["confidence"] = {"N": str(confidence)}
    if first is not None:
        attributes["first"] = first
    if explanation is not None:
        attributes["explanation"] = _attribute(explanation, "explanation", MAX_DEPTH)
    if item.kept:
        attributes["kept"] = kept_attribute(item.kept)
    if expires_at is not None:
        attributes["expires_at"] = {"N": str(expires_at)}
    return attributes


def with_label(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    """Return a row with the label of its prediction as a separate attribute, by which an index finds it.

    A row has none if its prediction has none, or one that is not a string, empty or too long for an index.
    """
    label = attributes.get("prediction", {}).get("M", {}).get("label", {}).get("S", "")
    return {**attributes, "label": {"S": label}} if 0 < len(label.encode()) <= MAX_LABEL_BYTES else attributes


def put_request(table: str, attributes: dict[str, Attribute]) -> dict[str, Any]:
    """Return DynamoDB's request that writes a row unless the table has a newer one, or has this one already.

    A row that did not succeed gives way to another result of the same event, so that a replay after a fix shows. The
    same reason again is not another result.
    """
    return {
        "TableName": table,
        "Item": attributes,
        "ConditionExpression": (
            "attribute_not_exists(sequencer) OR sequencer < :sequencer "
            "OR (sequencer = :sequencer AND #status <> :succeeded AND #reason <> :reason)"
        ),
        "ExpressionAttributeNames": {"#status": "status", "#reason": "reason"},
        "ExpressionAttributeValues": {
            ":sequencer": attributes["sequencer"],
            ":succeeded": {"S": "SUCCEEDED"},
            ":reason": attributes.get("reason", {"S": ""}),
        },
    }


def _attribute(value: object, path: str, depth: int) -> Attribute:
    if depth == 0:
        raise ResultError(f"{path:.100} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool | bytes):
        return {"BOOL" if isinstance(value, bool) else "B": value}
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ResultError(f"{path} is not valid Unicode") from error
        return {"S": value}
    if isinstance(value, int | float | Decimal):
        return {"N": _number(value, path)}
    if isinstance(value, list | tuple):
        return {"L": [_attribute(member, f"{path}[{index}]", depth - 1) for index, member in enumerate(value)]}
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str) or not name:
                raise ResultError(f"{path} has the key {name!r:.100}, expected a string that is not empty")
            _attribute(name, f"{path}.{name!a}", depth)
        return {"M": {name: _attribute(member, f"{path}.{name}", depth - 1) for name, member in value.items()}}
    raise ResultError(f"{path} is {type(value).__name__}, which is neither text, number, boolean, bytes, list nor dict")


def _number(value: float | Decimal, path: str) -> str:
    # math.isfinite refuses a Decimal that is a signalling NaN.
    if not (value.is_finite() if isinstance(value, Decimal) else isinstance(value, int) or math.isfinite(value)):
        raise ResultError(f"{path} is {value}, expected a finite number")
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if number and abs(number) < _SMALLEST:
        return "0"
    if abs(number) > _LARGEST or len(number.normalize().as_tuple().digits) > _MAX_DIGITS:
        raise ResultError(f"{path} is {number:.3e}, which is too large for DynamoDB or has over {_MAX_DIGITS} digits")
    return str(number)


def size_of(attribute: Attribute) -> int:
    """Count an attribute's bytes as DynamoDB does, rounded up."""
    [(kind, value)] = attribute.items()
    if kind == "S":
        return len(value.encode())
    if kind == "B":
        return len(value)
    if kind == "N":
        return len(value) // 2 + 2
    if kind == "L":
        return 3 + sum(1 + size_of(member) for member in value)
    if kind == "M":
        return 3 + sum(1 + len(name.encode()) + size_of(member) for name, member in value.items())
    return 1
