"""Objects of the inbox, for a page that trusts none of them: what they are is read from their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    from cdk_inference.local.uploads import Pipeline

MOST_UPLOADED = 100 * 2**20
"""Bytes of an upload."""

_MOST_SHOWN = 64 * 2**20  # bytes of a picture
_MOST_TEXT = 64 * 2**10  # bytes of a text that is shown
_LONGEST_KEY = 1024  # bytes, as S3 has it
_MISSING = ("NoSuchKey", "404", "PreconditionFailed", "412", "NoSuchVersion")
# Every browser shows these. SVG is not among them: it is a document, and may have scripts.
_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
    (b"BM", 0, "image/bmp"),
)
_HEAD = 512


@dataclass(frozen=True)
class Content:
    """An object, or its beginning.

    Parameters
    ----------
    kind
        ``picture``, ``text`` or ``other``.
    media_type
        The type that it is served with, which runs nothing.
    data
        The bytes; those of a text may be only its beginning.
    size
        Bytes of the whole object.
    """

    kind: str
    media_type: str
    data: bytes
    size: int


class MissingObjectError(LocalError):
    """The object is not there any more, or was overwritten."""


def content(s3: Any, bucket: str, key: str, etag: str, *, whole: bool) -> Content:  # noqa: ANN401
    """Read an object.

    Parameters
    ----------
    s3
        Client of S3.
    bucket, key, etag
        The object; with ``""`` for the etag, whatever is there.
    whole
        Whether to read all of a picture, and not just what tells that it is one.

    Raises
    ------
    MissingObjectError
        If there is no such object, or it is another one by now.
    """
    condition = {"IfMatch": f'"{etag}"'} if etag else {}
    try:
        answer = s3.get_object(Bucket=bucket, Key=key, **condition)
    except ClientError as error:
        if error.response["Error"]["Code"] in _MISSING:
            raise MissingObjectError(
                f"object {key!r} must be in the inbox as it was scored, got another or none"
            ) from error
        raise
    size, body = int(answer["ContentLength"]), answer["Body"]
    with body:
        data: bytes = body.read(_MOST_TEXT)
        kind, media_type = _kind(data, cut=size > len(data))
        if whole and kind == "picture" and size <= _MOST_SHOWN:
            data += body.read()
    return Content(kind, media_type, data, size)


def key_of_upload(pipeline: Pipeline, name: str) -> str:
    """Return the key under which a file is uploaded: its name after the prefix of the pipeline.

    Raises
    ------
    LocalError
        If S3 would not take it.
    """
    key = f"{pipeline.prefix}{name.lstrip('/')}"
    if not name or len(key.encode(errors="surrogatepass")) > _LONGEST_KEY or "\0" in name:
        raise LocalError(
            f"key must have 1 to {_LONGEST_KEY} bytes, got {len(key.encode(errors='replace'))}; rename the file"
        )
    return key


def _kind(data: bytes, *, cut: bool) -> tuple[str, str]:
    for mark, offset, media_type in _PICTURES:
        if data[offset : offset + len(mark)] == mark and (media_type != "image/webp" or data[:4] == b"RIFF"):
            return "picture", media_type
    if b"\0" not in data[:_HEAD]:
        try:
            # The cut may go through a character.
            data[: len(data) - 3 if cut else len(data)].decode(errors="strict")
        except UnicodeDecodeError as error:
            if not cut or error.start < len(data) - 8:
                return "other", "application/octet-stream"
        return "text", "text/plain; charset=utf-8"
    return "other", "application/octet-stream"
