"""Answers for web pages of other origins, where MiniStack's differ from API Gateway's.

Part of the child process, see `_ministack`.
"""

from __future__ import annotations

from typing import Any

_NO_CONTENT = 204


def answer_pages() -> None:
    """Read the CORS configuration of a template's HTTP API, and let a preflight response be empty."""
    from ministack.services import apigateway, apigateway_v1  # noqa: PLC0415

    headers, preflight = apigateway._cors_response_headers, apigateway._cors_preflight_response
    # A template writes `AllowOrigins` where MiniStack looks for `allowOrigins`.
    apigateway._cors_response_headers = lambda given, origin: headers(_lower(given), origin)
    apigateway._cors_preflight_response = lambda given, origin: preflight(_lower(given), origin)
    mock = apigateway_v1._invoke_mock_v1

    def invoke_mock(integration: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        status, found, body = mock(integration)
        # A browser takes the body of such a response for the next one.
        return status, found, b"" if status == _NO_CONTENT else body

    apigateway_v1._invoke_mock_v1 = invoke_mock


def _lower(given: dict[str, Any]) -> dict[str, Any]:
    return {name[:1].lower() + name[1:]: value for name, value in given.items()}
