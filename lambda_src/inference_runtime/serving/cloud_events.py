"""Reads CloudEvents from HTTP requests, in binary, structured and batched mode.

It follows version 1.0.2 of the specification, its HTTP binding and its JSON format. The SDK for Python has no batched
mode, makes up ids and versions that are missing, and prefers ``ce-`` headers to the content type. The tests send what
it writes.

https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"

_FORMATS = ("application/cloudevents", "application/cloudevents-batch")
_PREFIX = "ce-"
_NAME = re.compile(r"[a-z0-9]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # which attributes must not have
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)  # RFC 3339
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*(;.*)?", re.DOTALL)
_DEFAULT_TYPE = "application/json"
_PLAIN = "identity"
_REQUIRED = ("id", "source", "type", "specversion")
_TEXTS = (*_REQUIRED, "subject", "datacontenttype", "dataschema", "time")
_VERSION = "1.0"


class MalformedEventError(Exception):
    """The request is not a CloudEvent of version 1.0."""


class UnknownFormatError(Exception):
    """The request is a CloudEvent in a format other than JSON, or none at all."""


@dataclass(frozen=True)
class CloudEvent:
    """An event.

    Attributes
    ----------
    id, source, type
        The attributes that each event has; `source` and `id` together name it.
    subject
        Its subject; None if it has none.
    time
        When it happened, in ISO 8601.
    data
        The bytes of its data, as binary mode carries them; None if it has none.
    """

    id: str
    source: str
    type: str
    subject: str | None
    time: str
    data: bytes | None

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """The data as JSON.

        Raises
        ------
        MalformedEventError
            If they are not.
        """
        return _parsed(self.data or b"", "data")


def read_events(headers: Mapping[str, str], body: bytes) -> tuple[list[CloudEvent | MalformedEventError], bool]:
    """Return the events of a request, and whether they are a batch.

    A member of a batch that is not an event is in its place as the error that says why. The others can be scored.

    Parameters
    ----------
    headers
        By lower-case name.
    body
        The body.

    Raises
    ------
    MalformedEventError
        If the request is not what its content type says, or its only event is malformed.
    UnknownFormatError
        If it is not a CloudEvent in binary mode or in JSON, or its body is compressed.
    """
    if (encoding := headers.get("content-encoding", _PLAIN).strip().lower()) != _PLAIN:
        raise UnknownFormatError(f"content-encoding must be {_PLAIN}, got {encoding!a:.100}; send the body as it is")
    content_type = headers.get("content-type", "")
    media, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if media.startswith(_FORMATS):
        if media not in {STRUCTURED, BATCHED}:
            raise UnknownFormatError(f"content-type must be {STRUCTURED} or {BATCHED}, got {media!r:.100}")
        for parameter in parameters:
            if parameter.startswith("charset=") and parameter.removeprefix("charset=").strip('"') != "utf-8":
                raise UnknownFormatError(f"charset must be utf-8, got {parameter!r:.100}")
        value = _parsed(body, "body")
        if media == STRUCTURED:
            return [_of_json(value)], False
        if not isinstance(value, list):
            raise MalformedEventError(f"body must be an array of events, got {type(value).__name__}")
        return [_member(member) for member in value], True
    if f"{_PREFIX}specversion" not in headers:
        raise UnknownFormatError(
            f"request must have the header ce-specversion, or the content-type {STRUCTURED} or {BATCHED}"
        )
    names = {name.removeprefix(_PREFIX): name for name in headers if name.startswith(_PREFIX)}
    attributes = {name: _header(name, headers[header]) for name, header in names.items()}
    if content_type:
        attributes["datacontenttype"] = content_type
    return [_event(attributes, body or None)], False


def _member(value: object) -> CloudEvent | MalformedEventError:
    try:
        return _of_json(value)
    except MalformedEventError as error:
        return error


def _of_json(value: object) -> CloudEvent:
    if not isinstance(value, dict):
        raise MalformedEventError(f"event must be a JSON object, got {type(value).__name__}")
    attributes = {name: member for name, member in value.items() if member is not None}
    data, encoded = attributes.pop("data", None), attributes.pop("data_base64", None)
    if encoded is not None:
        if data is not None:
            raise MalformedEventError("event must have either data or data_base64, got both")
        return _event(attributes, _decoded(encoded))
    if data is None:
        return _event(attributes, None)
    kind = attributes.get("datacontenttype")
    if isinstance(data, str) and isinstance(kind, str) and not _is_json(kind):
        return _event(attributes, _encoded(data, "data"))
    return _event(attributes, _encoded(json.dumps(data, ensure_ascii=False, separators=(",", ":")), "data"))


def _event(attributes: Mapping[str, Any], data: bytes | None) -> CloudEvent:
    for name, value in attributes.items():
        if not _NAME.fullmatch(name):
            raise MalformedEventError(f"attribute name must be of lower-case letters and digits, got {name!a:.100}")
        if not isinstance(value, str | bool | int):
            raise MalformedEventError(f"{name} must be a string, a boolean or an integer, got {value!a:.100}")
        if isinstance(value, str) and _CONTROL.search(value):
            raise MalformedEventError(f"{name} must be without control characters, got {value!a:.100}")
    for name in _TEXTS:
        if name in _REQUIRED and name not in attributes:
            raise MalformedEventError(f"event must have the attribute {name}, got none")
        if name in attributes and not (isinstance(attributes[name], str) and attributes[name]):
            raise MalformedEventError(f"{name} must be a string that is not empty, got {attributes[name]!a:.100}")
        _encoded(attributes.get(name, ""), name)
    if not _MEDIA_TYPE.fullmatch(attributes.get("datacontenttype", _DEFAULT_TYPE)):
        found = attributes["datacontenttype"]
        raise MalformedEventError(f"datacontenttype must be a media type, got {found!a:.100}")
    if attributes["specversion"] != _VERSION:
        raise MalformedEventError(f"specversion must be {_VERSION}, got {attributes['specversion']!a:.100}")
    return CloudEvent(
        id=attributes["id"],
        source=attributes["source"],
        type=attributes["type"],
        subject=attributes.get("subject"),
        time=_time(attributes["time"])
        if "time" in attributes
        else datetime.now(UTC).isoformat(timespec="milliseconds"),
        data=data,
    )


def _header(name: str, value: str) -> str:
    """Decode the value of a header: first its quotes, and then its percents."""
    value = value.strip()
    if (quoted := _QUOTED.fullmatch(value)) is not None:
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    if not value.isascii() or _PERCENT.search(value):
        raise MalformedEventError(f"ce-{name} must be percent-encoded, got {value!a:.100}")
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError as error:
        raise MalformedEventError(f"ce-{name} must be UTF-8, percent-encoded, got {value!a:.100}") from error


def _time(text: str) -> str:
    try:
        if _TIME.fullmatch(text):
            datetime.fromisoformat(text.upper())
            return text.upper()
    except ValueError:
        pass
    raise MalformedEventError(f"time must be a timestamp of RFC 3339, got {text!a:.100}")


def _is_json(content_type: str) -> bool:
    subtype = content_type.partition(";")[0].strip().lower().partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def _decoded(encoded: object) -> bytes:
    try:
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise MalformedEventError("data_base64 must be base64")


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise MalformedEventError(f"{name} must be valid Unicode") from error


def _parsed(text: bytes, name: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedEventError(f"{name} must be JSON: {error}") from error
