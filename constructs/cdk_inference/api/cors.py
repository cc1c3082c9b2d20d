"""The web pages that may read the answers of a REST API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import aws_apigateway as apigateway

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

ORIGIN_VARIABLE = "API_ALLOW_ORIGIN"
"""The variable that tells a function of the one origin whose pages may read its answers."""

EXPOSED = "Retry-After,x-amzn-ErrorType,x-amzn-RequestId"
"""The headers of answers that pages read besides those that browsers always let them read."""

_ALLOW, _EXPOSE = "Access-Control-Allow-Origin", "Access-Control-Expose-Headers"


def checked_cors(cors: apigateway.CorsOptions) -> apigateway.CorsOptions:
    """Return options that fit the methods of an API: their default headers include the idempotency key.

    Raises
    ------
    PropError
        There is not just one origin, or pages may send cookies. Or there are headers that pages may read: the API sets
        those of its answers itself.
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
    if cors.expose_headers:
        raise PropError(
            f"cors_preflight.expose_headers must be left out, got {list(cors.expose_headers)}; pages may read {EXPOSED}"
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
        api.add_gateway_response(id, type=kind, response_headers=_values(origin))


def response_headers(origin: str | None) -> Mapping[str, str] | None:
    """Return the parameters of a response that pages of an origin may read."""
    if origin is None:
        return None
    return {f"method.response.header.{name}": value for name, value in _values(origin).items()}


def declared_headers(origin: str | None) -> Mapping[str, bool] | None:
    """Return the headers of a response as its method declares them."""
    return None if origin is None else {f"method.response.header.{name}": True for name in (_ALLOW, _EXPOSE)}


def _values(origin: str) -> dict[str, str]:
    """Return the headers with which pages of an origin may read a response, as API Gateway quotes values."""
    return {_ALLOW: f"'{origin}'", _EXPOSE: f"'{EXPOSED}'"}
