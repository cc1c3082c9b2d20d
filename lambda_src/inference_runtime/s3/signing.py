"""Signature version 4 of a request to S3, or to another service of AWS.

As in https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.

Our own, because the libraries that sign take several times as long to import as the rest of the client
(docs/guide/delivery.md has the figures). Tests hold it against botocore's.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference_runtime.s3.credentials import Credentials

_ALGORITHM = "AWS4-HMAC-SHA256"


def signed_headers(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | memoryview,
    *,
    credentials: Credentials,
    region: str,
    service: str = "s3",
    now: float | None = None,
) -> dict[str, str]:
    """Return the headers of a request, with those that sign it.

    Parameters
    ----------
    method
        Such as ``GET``.
    path
        As it is sent: percent-encoded, without a query.
    headers
        The headers that are sent and signed, names in lower case; `host` must be among them.
    body
        The body that follows the headers.
    credentials
        The credentials that sign.
    region
        The Region of the bucket, or of the service.
    service
        The name that the service has in signatures. The path of another one than S3 must need no encoding.
    now
        Seconds since 1970. Default: the clock's.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    content = hashlib.sha256(body).hexdigest()
    signed = {**headers, "x-amz-content-sha256": content, "x-amz-date": moment}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in sorted(signed))
    request = f"{method}\n{path}\n\n{lines}\n{names}\n{content}"
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    signed["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return signed
