"""The HTTP interface: events by POST, and what orchestrators and brokers ask.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from inference_runtime.serving.cloud_events import MalformedEventError, UnknownFormatError, read_events
from inference_runtime.serving.messages import message_of
from inference_runtime.serving.scoring import Outcome, Scored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from inference_runtime.serving.cloud_events import CloudEvent
    from inference_runtime.serving.scoring import Scorer
    from inference_runtime.serving.settings import Settings

REPLY_TYPE = "com.github.cdk-inference.result.v1"
"""The type of the event that is the answer to an event."""

_PROBLEM = "application/problem+json"
_BODY_SECONDS = 30
_MOST_EVENTS = 5_000  # of a batch, as many as Event Grid sends; each takes kilobytes, however short it is
_MOST_SHOWN = 80  # characters of an event's id
_MOST_DETAIL = 200  # characters that say why one of many events did not end well
_RETRY_AFTER = {"retry-after": "1"}
_STATUSES = {
    Outcome.STORED: HTTPStatus.NO_CONTENT,
    Outcome.MALFORMED: HTTPStatus.BAD_REQUEST,
    Outcome.FAILED: HTTPStatus.INTERNAL_SERVER_ERROR,
    Outcome.RETRY: HTTPStatus.SERVICE_UNAVAILABLE,
}
_WORST = list(Outcome)

_log = logging.getLogger(__name__)


class Server:
    """Answers requests.

    Parameters
    ----------
    settings
        The settings.

    Attributes
    ----------
    scorer
        Scores events; None until the model is open, and when the server stops.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inside = self._bytes = 0
        self._numbers = itertools.count()
        self.scorer: Scorer | None = None

    def application(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/", self._take, methods=["POST"]),
                Route("/", self._handshake, methods=["OPTIONS"]),
                Route("/healthz", _is_alive, methods=["GET"]),
                Route("/readyz", self._is_ready, methods=["GET"]),
            ]
        )

    async def _is_ready(self, _: Request) -> Response:
        status = HTTPStatus.SERVICE_UNAVAILABLE if self.scorer is None else HTTPStatus.OK
        return PlainTextResponse(status.phrase, status)

    async def _handshake(self, request: Request) -> Response:
        """Tell a sender that it may send, if it is one of those that were named."""
        origin = request.headers.get("webhook-request-origin")
        allowed = {"allow": "POST"}
        if origin in self._settings.webhook_origins:
            allowed |= {"webhook-allowed-origin": origin}
            if rate := request.headers.get("webhook-request-rate"):
                allowed["webhook-allowed-rate"] = rate
        return Response(status_code=HTTPStatus.OK, headers=allowed)

    async def _take(self, request: Request) -> Response:
        """Score the events of a request."""
        if self.scorer is None or self._inside >= self._settings.max_requests:
            return _busy()
        self._inside += 1
        try:
            return await self._scored(request, self.scorer)
        except TimeoutError:
            return _problem(HTTPStatus.REQUEST_TIMEOUT, f"body must arrive within {_BODY_SECONDS} s")
        except MalformedEventError as error:
            return _problem(HTTPStatus.BAD_REQUEST, str(error))
        except UnknownFormatError as error:
            return _problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error))
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it
        finally:
            self._inside -= 1

    async def _scored(self, request: Request, scorer: Scorer) -> Response:
        body = bytearray()
        most = self._settings.max_body_bytes
        size = 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._bytes += len(chunk)
                    if size > most:
                        return _problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body must be at most {most:,} bytes")
                    if self._bytes > self._settings.max_waiting_bytes:
                        return _busy()
                    body += chunk
            data = bytes(body)
            body.clear()  # another copy would stay as long as the event waits
            return await self._answered(*read_events(_headers(request), data), scorer)
        finally:
            self._bytes -= size

    async def _answered(
        self, events: Sequence[CloudEvent | MalformedEventError], batched: bool, scorer: Scorer
    ) -> Response:
        if len(events) > _MOST_EVENTS:
            return _problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body must have at most {_MOST_EVENTS:,} events")
        ended = await asyncio.gather(*(self._ended(event, scorer) for event in events))
        if batched:
            return self._summary(ended)
        [event], [scored] = events, ended
        if self._settings.replies and scored.answer and not isinstance(event, MalformedEventError):
            return self._reply(event, scored)
        return self._said(scored)

    async def _ended(self, event: CloudEvent | MalformedEventError, scorer: Scorer) -> Scored:
        """Score an event. A malformed one does not keep the others of its batch: a broker gives up on them all."""
        if isinstance(event, MalformedEventError):
            return Scored(Outcome.MALFORMED, str(event))
        try:
            message = message_of(event, self._message_id(event), self._settings.buckets)
        except MalformedEventError as error:
            return Scored(Outcome.MALFORMED, str(error))
        if message is None:
            return Scored(Outcome.STORED)
        return await asyncio.wrap_future(scorer.submit(message))

    def _message_id(self, event: CloudEvent) -> str:
        """Return an id for the log, which no other delivery has, and which is one line whatever the event's id is."""
        return f"{event.id!a:.{_MOST_SHOWN}}#{next(self._numbers)}"

    def _summary(self, ended: Sequence[Scored]) -> Response:
        """Return the status of the event that ended worst, and which events of the batch did not end well."""
        worst = max(ended, key=lambda scored: _WORST.index(scored.outcome), default=Scored(Outcome.STORED))
        told = [
            {"index": index, "status": int(status), "detail": scored.reason[:_MOST_DETAIL]}
            for index, scored in enumerate(ended)
            if (status := self._status(scored)) >= HTTPStatus.MULTIPLE_CHOICES
        ]
        return self._said(worst, events=told)

    def _said(self, scored: Scored, **more: object) -> Response:
        """Return the status of an event. Success has no body: Knative takes one for an event."""
        status = self._status(scored)
        if status < HTTPStatus.MULTIPLE_CHOICES:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        headers = _RETRY_AFTER if scored.outcome is Outcome.RETRY else {}
        return _problem(status, scored.reason, headers, **more)

    def _status(self, scored: Scored) -> HTTPStatus:
        return HTTPStatus(_STATUSES.get(scored.outcome, self._settings.rejected_status))

    def _reply(self, event: CloudEvent, scored: Scored) -> Response:
        """Return the result as an event in binary mode."""
        said = {name: value for name, value in scored.answer.items() if name != "message_id"}
        status = self._status(scored)
        headers = {
            "ce-specversion": "1.0",
            "ce-id": quote(f"{event.id}-result"),
            "ce-source": "cdk-inference",
            "ce-type": REPLY_TYPE,
            "ce-subject": quote(event.id),
            "ce-time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        body = json.dumps(said, ensure_ascii=False).encode()
        code = HTTPStatus.OK if status < HTTPStatus.MULTIPLE_CHOICES else status
        return Response(body, code, headers, "application/json")


def _headers(request: Request) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        if name in headers and name.startswith("ce-"):
            raise MalformedEventError(f"{name} must be there once")
        headers[name] = value
    return headers


async def _is_alive(_: Request) -> Response:
    return PlainTextResponse(HTTPStatus.OK.phrase)


def _busy() -> Response:
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "the server is busy or starts", _RETRY_AFTER)


def _problem(status: HTTPStatus, detail: str, headers: dict[str, str] | None = None, **more: object) -> Response:
    """Return an error as RFC 9457 has it, with more members of ours."""
    body: dict[str, Any] = {"title": status.phrase, "status": int(status), "detail": detail, **more}
    return JSONResponse(body, status, headers, _PROBLEM)
