"""Reads the notification that SageMaker publishes after an asynchronous inference."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MODEL_ERROR = "SageMakerModelError"
"""The model container broke off or failed without a message: perhaps because of an item."""

SERVICE_ERROR = "SageMakerServiceError"
"""SageMaker did not run the request: it expired in the queue, say. The items have nothing to do with it."""

OUTPUT_LOST = "SageMakerOutputLost"
"""The output that SageMaker announced is not there. The model may well answer again."""

OUTPUT_ERROR = "SageMakerOutputError"
"""The output is not an answer: what a truncated object and a container that talks nonsense have in common."""

_COMPLETED = "Completed"
# SageMaker reports what the container answers as "ClientError: Received server error (500) from model. …".
_CONTAINER = re.compile(r"(?:ClientError|ModelError)\b")
_STATUS = re.compile(r"error \((\d{3})\)")
_BUSY = frozenset({"429", "503"})  # which the container answers when it asks for another try
_EXPIRED = re.compile(r"expire|TTL", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """Why there is no answer: the name of an error, which decides what the workflow does, and a text."""

    error: str
    cause: str


@dataclass(frozen=True)
class Notification:
    """A notification, as far as we need it.

    Attributes
    ----------
    inference_id
        Under which the request was made.
    failure
        Why there is no output, if there is none.
    bucket, key
        Where the output is.
    """

    inference_id: str
    failure: Failure | None
    bucket: str
    key: str

    @classmethod
    def parse(cls, message: str) -> Notification:
        """Read a notification.

        Raises
        ------
        ValueError
            It is none.
        """
        try:
            body = json.loads(message)
            inference_id = str(body["inferenceId"] or "")
            if not inference_id:
                raise ValueError("a notification without inferenceId")
            if body["invocationStatus"] != _COMPLETED:
                return cls(inference_id, _failure(body), "", "")
            location = urlsplit(str(body["responseParameters"]["outputLocation"]))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a notification of SageMaker: {error!r}") from error
        return cls(inference_id, None, location.netloc, location.path.lstrip("/"))


def _failure(body: dict[str, Any]) -> Failure:
    """Tell what happened: in the container's own words if it said something, otherwise in SageMaker's."""
    reason = str(body.get("failureReason") or body["invocationStatus"])
    said = _response(body)
    if isinstance(said, dict) and isinstance(said.get("errorType"), str) and said["errorType"]:
        return Failure(said["errorType"], str(said.get("errorMessage", "")))
    status = _STATUS.search(reason)
    by_items = _CONTAINER.match(reason) and not _EXPIRED.search(reason) and not (status and status[1] in _BUSY)
    return Failure(MODEL_ERROR if by_items else SERVICE_ERROR, reason)


def _response(body: dict[str, Any]) -> object:
    """Return what the container answered, which SageMaker includes if it is small."""
    response = body.get("responseBody")
    try:
        content = response["content"]  # type: ignore[index]
        if response.get("encoding") == "BASE64":  # type: ignore[union-attr]
            content = base64.b64decode(content)
        return json.loads(content)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return None
