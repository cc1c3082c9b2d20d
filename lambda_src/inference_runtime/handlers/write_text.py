"""Answers requests of a function URL with text as the model writes it.

Lambda's own client for Python answers with a whole response. So this is a process that asks for events itself. A
wrapper script of the function starts it in that client's place: `python -m inference_runtime.handlers.write_text`.
Where there is no such script, `handler` answers with the same events in a whole response.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from inference_runtime.environment import required
from inference_runtime.http.requests import RefusedError
from inference_runtime.http.runtime_api import RuntimeApi, RuntimeApiError
from inference_runtime.http.text_events import EVENTS, TextWriter, failed_event
from inference_runtime.lifecycle import answers_warming, begin_with_snapshot, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference_runtime.http.runtime_api import Invocation

_HEADERS = {"content-type": EVENTS, "cache-control": "no-store"}
_JSON = {"content-type": "application/json"}
_FAILED = 1  # exit status

_log = logging.getLogger(__name__)
_opened: list[TextWriter] = []
_request = [""]  # the id of the invocation that is answered, for log lines


class JsonLines(logging.Formatter):
    """Writes log lines as Lambda's own client does for functions with JSON logs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
        said = {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
            "requestId": _request[0],
        }
        if record.exc_info and record.exc_info[0] is not None:
            said["stackTrace"] = self.formatException(record.exc_info)
            said["errorType"] = record.exc_info[0].__name__
        return json.dumps(said)


def open_writer() -> TextWriter:
    """Return what answers requests, which is opened once in a process."""
    if not _opened:
        # In an environment that is made for a request, the model is opened before the request is asked for.
        from inference_runtime.engine.engine import LocalEngine  # noqa: PLC0415 - it opens the model

        engine = LocalEngine()
        prepare(engine.warm_up)
        _opened.append(TextWriter.from_environment(engine))
    return _opened[0]


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Return the whole response to a request.

    Parameters
    ----------
    event
        That of a function URL.
    context
        Lambda's.
    """
    try:
        body = b"".join(_until_failure(open_writer().begin(event, context)))
    except RefusedError as error:
        return {"statusCode": int(error.status), "headers": _JSON, "body": _message(error).decode()}
    return {"statusCode": int(HTTPStatus.OK), "headers": _HEADERS, "body": body.decode()}


def _until_failure(events: Iterator[bytes]) -> Iterator[bytes]:
    """Yield events, and one that says so if the model fails."""
    try:
        yield from events
    except Exception:
        _log.exception("the model failed")
        yield failed_event()


def main() -> None:
    """Open the model, and answer requests until Lambda ends the process."""
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(JsonLines())
    logging.basicConfig(handlers=[lines], level=logging.INFO)
    api = RuntimeApi(required("AWS_LAMBDA_RUNTIME_API"))
    try:
        writer = open_writer()
        begin_with_snapshot(api.wait_for_restore)
    except Exception as error:
        _log.exception("the function cannot start")
        api.fail_initialization(error)
        sys.exit(_FAILED)
    while True:
        answer(api, writer, api.next_invocation())


def answer(api: RuntimeApi, writer: TextWriter, invocation: Invocation) -> None:
    """Answer an invocation, whatever becomes of it."""
    event, _request[0] = invocation.event, invocation.aws_request_id
    try:
        if not (isinstance(event, dict) and "requestContext" in event):
            _answer_other(api, invocation)
            return
        try:
            events = writer.begin(event, invocation)
        except RefusedError as error:
            response = api.stream(invocation, int(error.status), _JSON)
            response.write(_message(error))
            response.end()
            return
        except Exception as error:
            _log.exception("the event is not a request")
            api.fail(invocation, error)
            return
        _send(api, invocation, events)
    except RuntimeApiError as error:
        # Nobody waits for the rest any more. The next event is asked for as always.
        _log.warning("an answer was not taken: %s", error)


def _answer_other(api: RuntimeApi, invocation: Invocation) -> None:
    """Answer an event other than a request, such as one that keeps the function warm."""
    try:
        said = handler(invocation.event, invocation)
    except Exception as error:
        _log.exception("the event is not a request")
        api.fail(invocation, error)
    else:
        api.respond(invocation, said)


def _send(api: RuntimeApi, invocation: Invocation, events: Iterator[bytes]) -> None:
    response = api.stream(invocation, int(HTTPStatus.OK), _HEADERS)
    try:
        for event in events:
            response.write(event)
    except RuntimeApiError:
        raise
    except Exception as error:
        _log.exception("the model failed")
        response.write(failed_event())
        response.fail(error)
    else:
        response.end()


def _message(error: RefusedError) -> bytes:
    return json.dumps({"message": str(error)}).encode()


if __name__ == "__main__":
    main()
