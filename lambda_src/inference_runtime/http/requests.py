"""One request of API Gateway as a batch of one, and what became of it as a response.

Reads the event of a Lambda proxy integration, in both versions of its format.
"""

from __future__ import annotations

import base64
import json
import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from inference_runtime.environment import required
from inference_runtime.errors import LittleTimeError, RetryableError
from inference_runtime.http.cors import readable_by_pages
from inference_runtime.stages.answers import ANSWERS_AND_ROWS, ANSWERS_ONLY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MOST_MILLISECONDS = 28_000
"""Time for an answer: API Gateway waits for 29 seconds (https://docs.aws.amazon.com/apigateway/latest/developerguide/
http-api-quotas.html, and the REST API's page of quotas)."""

MAX_KEY = 255
"""Longest idempotency key, in characters."""

_JSON = "application/json"
_STATUSES = {"REJECTED": HTTPStatus.UNPROCESSABLE_ENTITY, "FAILED": HTTPStatus.INTERNAL_SERVER_ERROR}
_LATE = "the request took longer than an API may take; send less, or use a queue or a bucket"
_BUSY = "a service that is needed is not available; try again"


class RefusedError(Exception):
    """The request cannot be scored, and its sender can see why.

    Parameters
    ----------
    status
        The status of the response.
    message
        The reason, for the sender.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def respond(handler: Callable[[dict[str, Any], Any], Any], event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Return the response to a request.

    Parameters
    ----------
    handler
        The handler of batches.
    event
        That of a Lambda proxy integration.
    context
        Lambda's.
    """
    response = _respond(handler, event, context)
    # An HTTP API, whose events have this version, adds the header itself.
    return response if event.get("version") == "2.0" else readable_by_pages(response)


def _respond(
    handler: Callable[[dict[str, Any], Any], Any], event: Mapping[str, Any], context: object
) -> dict[str, Any]:
    try:
        message, rows = message_of(event)
        result = handler(
            {"messages": [message], "answers": ANSWERS_AND_ROWS if rows else ANSWERS_ONLY}, _Within(context)
        )
    except RefusedError as error:
        return _response(error.status, {"message": str(error)})
    except LittleTimeError:
        return _response(HTTPStatus.GATEWAY_TIMEOUT, {"message": _LATE})
    except RetryableError:
        return _response(HTTPStatus.SERVICE_UNAVAILABLE, {"message": _BUSY})
    return _response(*outcome(result))


def outcome(result: Mapping[str, Any], *, most_bytes: int | None = None) -> tuple[HTTPStatus, dict[str, Any]]:
    """Return status and body of a response, from what became of a batch of one.

    Parameters
    ----------
    result
        The answer of the handler of batches.
    most_bytes
        Largest body, in bytes of JSON.
    """
    late = any(failure["error"] == "TookTooLongError" for failure in result["failures"])
    if result["retry"]:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"message": _BUSY}
    if result["unfinished"] or late:
        return HTTPStatus.GATEWAY_TIMEOUT, {"message": _LATE}
    if result["failures"] or not result["answers"]:
        # The log says what broke. Nobody else is told.
        return HTTPStatus.INTERNAL_SERVER_ERROR, {"message": "Internal Server Error"}
    (answer,) = result["answers"]
    if answer["status"] != "SUCCEEDED":
        return _STATUSES[answer["status"]], {"message": answer["reason"]}
    body = {name: answer[name] for name in ("prediction", "model_version", "inference")}
    if most_bytes is not None and (size := len(json.dumps(body))) > most_bytes:
        message = f"the prediction is {size:,} bytes as JSON, at most {most_bytes:,} fit a workflow"
        return HTTPStatus.INTERNAL_SERVER_ERROR, {"message": message}
    if "explanation" in answer:
        explained = {**body, "explanation": answer["explanation"]}
        if most_bytes is None or len(json.dumps(explained)) <= most_bytes:  # otherwise the prediction counts alone
            body = explained
    return HTTPStatus.OK, body


class _Within:
    """Lambda's context, with the time that API Gateway waits."""

    def __init__(self, context: object) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever Lambda's has
        return getattr(self._context, name)

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the answer must be there."""
        remaining = getattr(self._context, "get_remaining_time_in_millis", None)
        return MOST_MILLISECONDS if remaining is None else min(MOST_MILLISECONDS, remaining())


def message_of(event: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the request as a message with a payload, and whether it gets a row.

    Raises
    ------
    RefusedError
        The sender can see that it cannot be scored.
    """
    context = event["requestContext"]
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    data = _body(event)
    _check(data, headers)
    request = context["requestId"]
    key = headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"Idempotency-Key must be 1 to {MAX_KEY} printable ASCII characters")
    item = {
        "source": f"arn:aws:apigateway:::{context['apiId']}",
        "id": request if key is None else key,
        "sequence": "0",  # so that the first row of a key stays
        "time": str(context.get("timeEpoch") or context["requestTimeEpoch"]),
        "encoding": "base64",
    }
    return {"message_id": request, "body": base64.b64encode(data).decode(), "item": item}, key is not None


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    return base64.b64decode(body) if event.get("isBase64Encoded") else body.encode("utf-8", "surrogatepass")


def _check(data: bytes, headers: Mapping[str, str]) -> None:
    """Refuse what preprocessing need not see.

    Raises
    ------
    RefusedError
        The body is empty, too large, of a type that the API does not take, or not the JSON that it says it is.
    """
    if not data:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the request must have a body")
    if len(data) > (most := int(required("MAX_OBJECT_BYTES"))):
        raise RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body must be at most {most:,} bytes, got {len(data):,}"
        )
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    taken = os.environ.get("API_CONTENT_TYPES", "").split()
    if taken and given not in taken:
        raise RefusedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be {' or '.join(taken)}, got {given or 'none'}"
        )
    if given == _JSON:
        try:
            json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"the body must be JSON: {error}") from None


def _response(status: HTTPStatus, body: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"content-type": _JSON}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = "1"
    return {"statusCode": int(status), "headers": headers, "body": json.dumps(body), "isBase64Encoded": False}
