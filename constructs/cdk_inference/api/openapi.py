"""The document of OpenAPI 3.1 that describes an API to its callers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIGV4: dict[str, Any] = {
    "type": "apiKey",
    "name": "Authorization",
    "in": "header",
    "x-amazon-apigateway-authtype": "awsSigv4",
}
"""Requests that principals of IAM sign, as API Gateway's exports describe it."""

BEARER: dict[str, Any] = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}

UNKNOWN: dict[str, Any] = {"type": "apiKey", "name": "Authorization", "in": "header"}
"""A Lambda authorizer reads this header by default."""

API_KEY: dict[str, Any] = {"type": "apiKey", "name": "x-api-key", "in": "header"}

_REFUSALS = {
    "400": "The body is empty, or not the JSON that its type says, or the Idempotency-Key is none.",
    "403": "The caller may not ask.",
    "413": "The body is too large.",
    "415": "The API does not take the media type.",
    "422": "The preprocessing or the postprocessing rejects the item; the message says why.",
    "429": "There are too many requests.",
    "500": "The model or code of a stage failed.",
    "503": "A service is not available; try again.",
    "504": "The answer took longer than an API may take.",
}


def document(
    title: str,
    *,
    content_types: Sequence[str],
    schema: Mapping[str, Any] | None,
    security: Mapping[str, Any],
    stage: str,
) -> dict[str, Any]:
    """Return the document.

    Parameters
    ----------
    title
        The name of the pipeline.
    content_types
        The media types of requests; any, if there are none.
    schema
        The schema of bodies of JSON; None if any JSON may be valid.
    security
        The scheme by which callers say who they are, by its name.
    stage
        The first part of the path, such as ``"/prod"``; empty if there is none.
    """
    message = {"type": "object", "required": ["message"], "properties": {"message": {"type": "string"}}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    body = {} if schema is None else {"schema": dict(schema)}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "servers": [
            {
                "url": f"https://{{api}}.execute-api.{{region}}.amazonaws.com{stage}",
                "variables": {"api": {"default": "api-id"}, "region": {"default": "us-east-1"}},
            }
        ],
        "components": {
            "securitySchemes": dict(security),
            "schemas": {
                "Refusal": message,
                "Answer": {
                    "type": "object",
                    "required": ["prediction", "model_version", "inference"],
                    "properties": {
                        "prediction": {"type": "object"},
                        "model_version": {"type": "string"},
                        "inference": {"type": "string"},
                        "explanation": {"type": "object"},
                    },
                    "additionalProperties": False,
                },
            },
        },
        "paths": {
            "/predict": {
                "post": {
                    "operationId": "predict",
                    "security": [{name: []} for name in security],
                    "parameters": [
                        {
                            "name": "Idempotency-Key",
                            "in": "header",
                            "description": "The key of the row that keeps the answer. Without it, nothing is stored.",
                            "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
                        }
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {
                            one: body if one == "application/json" else binary for one in content_types or ["*/*"]
                        },
                    },
                    "responses": {
                        "200": {"description": "The prediction.", "content": _content("Answer")},
                        **{
                            status: {"description": said, "content": _content("Refusal")}
                            for status, said in _REFUSALS.items()
                        },
                    },
                }
            }
        },
    }


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def add_items(api: dict[str, Any]) -> None:
    """Add ``POST /items`` to a document."""
    predict = api["paths"]["/predict"]["post"]
    accepted = {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}
    api["components"]["schemas"]["Accepted"] = accepted
    api["paths"]["/items"] = {
        "post": {
            "operationId": "sendItem",
            "security": predict["security"],
            "requestBody": predict["requestBody"],
            "responses": {
                "202": {"description": "The item will be scored.", "content": _content("Accepted")},
                **{
                    status: predict["responses"][status] for status in ("400", "403", "413", "415", "429", "500", "503")
                },
            },
        }
    }


def add_results(api: dict[str, Any]) -> None:
    """Add ``GET /results/{id}`` to a document."""
    predict = api["paths"]["/predict"]["post"]
    shown = ("status", "reason", "model_version", "recorded_at", "etag")
    api["components"]["schemas"]["Result"] = {
        "type": "object",
        "required": ["status", "model_version", "recorded_at"],
        "properties": {"prediction": {"type": "object"}, **{name: {"type": "string"} for name in shown}},
        "additionalProperties": False,
    }
    api["paths"]["/results/{id}"] = {
        "get": {
            "operationId": "getResult",
            "security": predict["security"],
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "responses": {
                "200": {"description": "The result.", "content": _content("Result")},
                "404": {"description": "No result has this id yet.", "content": _content("Refusal")},
                **{status: predict["responses"][status] for status in ("403", "429", "500", "503", "504")},
            },
        }
    }


def add_uploads(api: dict[str, Any], content_types: Sequence[str]) -> None:
    """Add ``POST /uploads`` to a document."""
    predict = api["paths"]["/predict"]["post"]
    text = {"type": "string"}
    api["components"]["schemas"]["Upload"] = {
        "type": "object",
        "required": ["id", "url", "headers", "expires_at"],
        "properties": {
            "id": text,
            "url": text,
            "headers": {"type": "object", "additionalProperties": text},
            "expires_at": {"type": "string", "format": "date-time"},
        },
    }
    asked = {
        "type": "object",
        "required": ["size", "content_type"],
        "properties": {"size": {"type": "integer", "minimum": 1}, "content_type": {"enum": list(content_types)}},
    }
    api["paths"]["/uploads"] = {
        "post": {
            "operationId": "startUpload",
            "security": predict["security"],
            "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
            "responses": {
                "201": {"description": "Where to send the object by PUT.", "content": _content("Upload")},
                **{status: predict["responses"][status] for status in ("400", "403", "413", "415", "429", "500")},
            },
        }
    }
