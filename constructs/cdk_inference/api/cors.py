"""The web pages that may read the answers of a REST API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import aws_apigateway as apigateway

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

ORIGIN_VARIABLE = "API_ALLOW_ORIGIN"
"""The variable that tells a function of the one origin whose pages may read its answers."""

_HEADER = "Access-Control-Allow-Origin"


def checked_cors(cors: apigateway.CorsOptions) -> apigateway.CorsOptions:
    """Return options that fit the methods of an API: their default headers include the idempotency key.

    Raises
    ------
    PropError
        There is not just one origin, or pages may send cookies.
    """
    if len(cors.allow_origins) != 1:
        raise PropError(
            f"cors_preflight.allow_origins must have one origin for a REST API, got {list(cors.allow_origins)}; put an "
            "HTTP API in front of a fused pipeline, or answer for several origins by CloudFront"
        )
    if cors.allow_credentials:
        raise PropError(
            "cors_preflight.allow_credentials must be left out, got True; callers prove who they are by headers, not "
            "by cookies"
        )
    return apigateway.CorsOptions(
        allow_origins=cors.allow_origins,
        allow_headers=cors.allow_headers or [*apigateway.Cors.DEFAULT_HEADERS, "Idempotency-Key"],
        allow_methods=cors.allow_methods,
        max_age=cors.max_age,
        disable_cache=cors.disable_cache,
        status_code=cors.status_code,
    )


def let_pages_read_errors(api: apigateway.RestApi, origin: str) -> None:
    """Let pages read what API Gateway itself refuses, such as a request without a key."""
    for id, kind in (
        ("ClientErrors", apigateway.ResponseType.DEFAULT_4_XX),
        ("ServerErrors", apigateway.ResponseType.DEFAULT_5_XX),
    ):
        api.add_gateway_response(id, type=kind, response_headers={_HEADER: f"'{origin}'"})


def response_headers(origin: str | None) -> Mapping[str, str] | None:
    """Return the parameters of a response that pages of an origin may read."""
    return None if origin is None else {f"method.response.header.{_HEADER}": f"'{origin}'"}


def declared_headers(origin: str | None) -> Mapping[str, bool] | None:
    """Return the headers of a response as its method declares them."""
    return None if origin is None else {f"method.response.header.{_HEADER}": True}
