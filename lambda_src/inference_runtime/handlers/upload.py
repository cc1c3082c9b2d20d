"""Handler of `POST /uploads`: gives callers a presigned URL for one object, of the size and the type that they say.

It reads and writes nothing: a URL is signed without asking S3.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from inference_runtime.aws import client
from inference_runtime.environment import json_variable, required
from inference_runtime.http.cors import readable_by_pages
from inference_runtime.lifecycle import answers_warming

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_s3 import S3Client

EXPIRES_SECONDS = 900
"""How long a URL is valid; the credentials of a function's role are for longer."""

# Objects under a key of KMS take signatures of version 4 only. The virtual style names the Region: the global host may
# redirect, which browsers refuse before an upload.
_s3: S3Client = client("s3", signature_version="s3v4", s3={"addressing_style": "virtual"})
_bucket, _prefix = required("UPLOAD_BUCKET"), os.environ.get("UPLOAD_PREFIX", "")
_suffixes: dict[str, str] = json_variable("UPLOAD_TYPES", dict)
_most = int(required("MAX_OBJECT_BYTES"))


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Return the response with a URL.

    Parameters
    ----------
    event
        That of a Lambda proxy integration; its body is ``{"size", "content_type"}``, the bytes and their media type.
    context
        Unused.

    Returns
    -------
    dict
        The response. With status 201, its body is ``{"id", "url", "headers", "expires_at"}``. The object must be sent
        with these headers by PUT.
    """
    body = event.get("body") or ""
    text = base64.b64decode(body) if event.get("isBase64Encoded") else body
    try:
        asked = json.loads(text)
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        return _response(HTTPStatus.BAD_REQUEST, {"message": 'the body must be {"size": …, "content_type": …}'})
    size, kind = asked.get("size"), asked.get("content_type")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        return _response(HTTPStatus.BAD_REQUEST, {"message": f"size must be the number of bytes, got {size!r:.100}"})
    if not isinstance(kind, str) or kind not in _suffixes:
        message = f"content_type must be {' or '.join(_suffixes)}, got {kind!r:.100}"
        return _response(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"message": message})
    if size > _most:
        message = f"size must be at most {_most:,} bytes, got {size:,}"
        return _response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"message": message})
    name = f"{uuid.uuid4()}{_suffixes[kind]}"
    url = _s3.generate_presigned_url(
        "put_object",
        Params={
            "Bucket": _bucket,
            "Key": f"{_prefix}{name}",
            "ContentType": kind,
            "ContentLength": size,
            "IfNoneMatch": "*",  # once: another object would be another item
        },
        ExpiresIn=EXPIRES_SECONDS,
    )
    return _response(
        HTTPStatus.CREATED,
        {
            "id": name,
            "url": url,
            "headers": {"Content-Type": kind, "Content-Length": str(size), "If-None-Match": "*"},
            "expires_at": (datetime.now(UTC) + timedelta(seconds=EXPIRES_SECONDS)).isoformat(timespec="seconds"),
        },
    )


def _response(status: HTTPStatus, body: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"content-type": "application/json"}
    return readable_by_pages(
        {"statusCode": int(status), "headers": headers, "body": json.dumps(body), "isBase64Encoded": False}
    )
