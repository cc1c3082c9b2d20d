"""Lets the handler of batches answer requests of API Gateway too.

Imports next to nothing before there is a request: it is on the way of every cold start.
"""

from __future__ import annotations

import functools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    _Answer = TypeVar("_Answer")


def answers_requests(
    handler: Callable[[dict[str, Any], Any], _Answer],
) -> Callable[[dict[str, Any], Any], _Answer | dict[str, Any]]:
    """Decorate a handler of batches, so that it answers the requests of an HTTP API or a REST API.

    A request becomes a message with a payload, and the answer of its item the response; see `requests.respond`.

    Parameters
    ----------
    handler
        `handler(event, context) -> answer`, for all other events.
    """

    @functools.wraps(handler)
    def answer(event: dict[str, Any], context: Any) -> _Answer | dict[str, Any]:  # noqa: ANN401 - Lambda's object
        if "requestContext" not in event:
            return handler(event, context)
        from inference_runtime.http.requests import respond  # noqa: PLC0415 - most functions have no API

        return respond(handler, event, context)

    return answer
