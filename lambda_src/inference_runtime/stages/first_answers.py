"""Keeps the unsure answers of a cascade's first model for the rows of the second model.

An answer travels as JSON through the workflow and, when the second model runs in another workflow, through that
one's input. Its prediction is the DynamoDB attribute as JSON, or a claim check once the answer would be too large.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from inference_runtime.aws import error_code
from inference_runtime.errors import RetryableError
from inference_runtime.stages.rows import MAX_PREDICTION_BYTES, size_of

if TYPE_CHECKING:
    from inference_runtime.stages.rows import Attribute
    from inference_runtime.tensors.store import TensorStore

MAX_ANSWER_BYTES = 1_800
"""Most bytes of an answer as JSON, with escapes: those of a batch of 32 take a fifth of a workflow's state of 262,144.

The answer of preprocessing is smaller by as much, so that all that belongs to a batch fits together.
"""

_MAX_REASON = 200  # characters
_GONE = {"NoSuchKey", "AccessDenied"}  # S3 denies what is not there to those who may not list the bucket
_TEXTS = ("route", "model_version", "inference", "reason")


def answer(
    store: TensorStore,
    *,
    route: str | None,
    row_version: str,
    model_version: str,
    inference: str,
    confidence: float | None,
    prediction: Attribute | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """Return an answer of at most `MAX_ANSWER_BYTES`.

    Parameters
    ----------
    store
        Takes the prediction if it is too large.
    row_version
        The row's key, whichever model writes it.
    prediction
        If there is one.
    reason
        Why there is none.

    Raises
    ------
    RetryableError
        If the work bucket does not take the prediction.
    """
    members = {
        "route": route,
        "row_version": row_version,
        "model_version": model_version,
        "inference": inference,
        "confidence": confidence,
        "prediction": None if prediction is None else _to_json(prediction),
        "reason": None if reason is None else reason[:_MAX_REASON],
    }
    found: dict[str, Any] = {name: value for name, value in members.items() if value is not None}
    if prediction is not None and len(_dumped(found)) > MAX_ANSWER_BYTES:
        found["prediction"] = store.put(_dumped(found["prediction"]))
    while "reason" in found and len(_dumped(found)) > MAX_ANSWER_BYTES:
        found["reason"] = found["reason"][: len(found["reason"]) // 2]
    return found


def first_attribute(store: TensorStore, given: dict[str, Any], prediction: Attribute | None) -> Attribute:
    """Return an answer as the attribute `first` of a row.

    Parameters
    ----------
    store
        Has the answer's prediction if it was too large.
    given
        The answer.
    prediction
        The prediction of the row itself. If a row cannot hold both, the answer's is left out, and its reason says so.

    Raises
    ------
    RetryableError
        If the work bucket does not give the answer's prediction.
    """
    members: Attribute = {name: {"S": given[name]} for name in _TEXTS if given.get(name) is not None}
    if given.get("confidence") is not None:
        members["confidence"] = {"N": str(given["confidence"])}
    if (found := given.get("prediction")) is None:
        return {"M": members}
    if "bucket" in found:
        try:
            found = json.loads(store.get(found["bucket"], found["key"]))
        except RetryableError as error:
            if not isinstance(error.__cause__, ClientError) or error_code(error.__cause__) not in _GONE:
                raise
            return {"M": members | {"reason": {"S": "the prediction is no longer in the work bucket"}}}
    own = _from_json(found)
    together = size_of(own) + (size_of(prediction) if prediction is not None else 0)
    if together > MAX_PREDICTION_BYTES:
        reason = f"both predictions are {together:,} bytes, at most {MAX_PREDICTION_BYTES:,} fit a row"
        return {"M": members | {"reason": {"S": reason}}}
    return {"M": members | {"prediction": own}}


def _to_json(attribute: Attribute) -> Attribute:
    """Return a DynamoDB attribute as JSON: bytes in base64."""
    [(kind, value)] = attribute.items()
    if kind == "B":
        return {kind: base64.b64encode(value).decode()}
    if kind == "L":
        return {kind: [_to_json(member) for member in value]}
    if kind == "M":
        return {kind: {name: _to_json(member) for name, member in value.items()}}
    return attribute


def _from_json(attribute: Attribute) -> Attribute:
    [(kind, value)] = attribute.items()
    if kind == "B":
        return {kind: base64.b64decode(value)}
    if kind == "L":
        return {kind: [_from_json(member) for member in value]}
    if kind == "M":
        return {kind: {name: _from_json(member) for name, member in value.items()}}
    return attribute


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()  # escaped, which is the longest form that it can take on its way
