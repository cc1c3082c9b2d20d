"""One item on its way through the pipeline: a version of an S3 object, or what a message says itself."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from inference_runtime.errors import MalformedMessageError

if TYPE_CHECKING:
    from inference_runtime.stages.byte_range import ByteRange

SEQUENCER_WIDTH = 32
_HEX = re.compile(rf"[0-9A-Fa-f]{{1,{SEQUENCER_WIDTH}}}")

SEQUENCE_WIDTH = 64
MAX_ID_BYTES = 1024
"""Largest id of a payload: as long as a key of S3, since rows are found by it."""

_DIGITS = re.compile(rf"[0-9]{{1,{SEQUENCE_WIDTH}}}")
_ARN = re.compile(r"arn:[^:]+:([a-z0-9]+):[^:]*:[^:]*:(?:[a-z]+/)?([^:/]+)")
_SERVICE = re.compile(r"[a-z][a-z0-9]*:.")
_NUMBER = re.compile(r"[0-9]{1,14}(\.[0-9]{1,9})?(E[0-9]{1,2})?")
_LARGEST_SIZE = 2**63 - 1  # what an export's column holds
_FIRST_MILLISECONDS = 1e11  # in seconds, the year 5138


@dataclass(frozen=True, slots=True)
class Item:
    """One S3 object version, or one payload: what a message has in it.

    Attributes
    ----------
    id
        SHA-256 over bucket, key and version id (or entity tag and sequencer), in hex: the same for every delivery
        of the same event.
    bucket
        Name of the bucket. A payload has the service that brought it and the name of its source, such as
        ``sqs:orders``, which no bucket can have.
    key
        Object key, decoded; of a payload, its id.
    version_id
        Object version, or None in a bucket without versioning and of a payload.
    etag
        Entity tag, without quotes; of a payload, the SHA-256 of its bytes, in hex.
    size
        Size in bytes.
    sequencer
        The event's sequencer, padded so that sequencers of one key sort as text: see `pad_sequencer`. A payload has its
        sequence number, padded from the left.
    event_time
        When the event happened, ISO 8601.
    message_id
        Id of the queue message that brought the event.
    kept
        The values that preprocessing kept, by name; empty before it is done, and if it keeps none.
    payload
        The bytes of a payload, as long as the message is at hand; None of an object.
    range
        The bytes of an object that stand for a payload, as long as the message is at hand. Otherwise None.
    """

    id: str
    bucket: str
    key: str
    version_id: str | None
    etag: str
    size: int
    sequencer: str
    event_time: str
    message_id: str
    kept: dict[str, Any] = field(default_factory=dict, hash=False)
    payload: bytes | None = field(default=None, repr=False)
    range: ByteRange | None = field(default=None, repr=False)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Item:
        """Read a queue message with an S3 "Object Created" event of EventBridge, or with a payload.

        A message has a payload if it has an `item`, ``{"source", "id", "sequence", "time"}``. `body` is then the
        payload, a text or any other JSON. `source` is an ARN, or `bucket` stands for it, such as
        ``cloudevents:/cameras/7``; and `time` is milliseconds or seconds since the epoch, or
        ISO 8601. `item` may have further members: `member` names the one of `body` that is the payload. `encoding` says
        what a body is: ``base64``, unless it is other JSON than a text, or an item of ``dynamodb``. An id may be a
        whole number, and `keys`, the typed values of a table's key, may stand in for it. Instead of a body there may be
        a `range` of an object, see `ByteRange`. A body that has an `item` itself is such a message.

        Otherwise its `body` is the event, with `time` and `detail`; or the message has these two itself. `body` and
        `detail` may be JSON strings, and the message's id is `message_id` or `messageId`. So a pipe may have a template
        for its input, whatever that makes of the body.

        EventBridge carries keys as they are, unlike S3's own notifications, which may be the body too.

        Raises
        ------
        MalformedMessageError
            If the message does not describe an object, or a payload.
        """
        if "item" in message:
            return cls._of_payload(message)
        event = message if "detail" in message else _parsed(message.get("body"), "body")
        if isinstance(event, dict) and "item" in event:
            return cls._of_payload({**message, "item": event["item"], "body": event})
        return cls._of_event(message, event)

    @classmethod
    def _of_payload(cls, message: dict[str, Any]) -> Item:
        item = message["item"]
        source = _source_of(item)
        key = _text(_id_of(item), "item.id")
        if len(key.encode()) > MAX_ID_BYTES:
            raise MalformedMessageError(f"item.id has {len(key.encode()):,} bytes, expected at most {MAX_ID_BYTES:,}")
        sequence = _text(_member(item, "sequence"), "item.sequence")
        if not _DIGITS.fullmatch(sequence):
            raise MalformedMessageError(f"item.sequence is {sequence!r:.100}, expected 1 to {SEQUENCE_WIDTH} digits")
        part = _range(item)
        payload = _payload(message.get("body"), item) if part is None else None
        etag = part.identity if part is not None else hashlib.sha256(payload or b"").hexdigest()
        sequencer = sequence.rjust(SEQUENCE_WIDTH, "0")
        return cls(
            id=hashlib.sha256(json.dumps([source, key, [etag, sequencer]]).encode()).hexdigest(),
            bucket=source,
            key=key,
            version_id=None,
            etag=etag,
            size=part.most_bytes if part is not None else len(payload or b""),
            sequencer=sequencer,
            event_time=_iso(_text(_member(item, "time"), "item.time")),
            message_id=_text(message_id_of(message), "message_id"),
            payload=payload,
            range=part,
        )

    @classmethod
    def _of_event(cls, message: dict[str, Any], event: object) -> Item:
        if isinstance(event, dict) and "Records" in event:
            event = _of_notification(event["Records"])
        detail = _parsed(_member(event, "detail"), "detail")
        bucket = _text(_member(_member(detail, "bucket"), "name"), "bucket.name")
        entry = _member(detail, "object")
        key = _text(_member(entry, "key"), "object.key")
        etag = _text(_member(entry, "etag"), "object.etag").strip('"')
        sequencer = pad_sequencer(_text(_member(entry, "sequencer"), "object.sequencer"))
        version_id = _text(entry["version-id"], "object.version-id") if entry.get("version-id") is not None else None
        if version_id == "null":  # versioning is suspended: "null" names a new object after every overwrite
            version_id = None
        identity = json.dumps([bucket, key, version_id or [etag, sequencer]])
        return cls(
            id=hashlib.sha256(identity.encode()).hexdigest(),
            bucket=bucket,
            key=key,
            version_id=version_id,
            etag=etag,
            size=_size(_member(entry, "size")),
            sequencer=sequencer,
            event_time=_text(_member(event, "time"), "time"),
            message_id=_text(message_id_of(message), "message_id"),
        )

    @property
    def location(self) -> str:
        """Say for logs where the item is, or came from."""
        scheme = "s3://" if self.payload is None and self.range is None else ""
        return f"{scheme}{self.bucket}/{self.key}"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Item:
        """Read what `to_json` wrote."""
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the attributes as members, but payload and range, and `kept` if it is empty."""
        found = asdict(self)
        if not self.kept:
            del found["kept"]
        del found["payload"], found["range"]
        return found


def pad_sequencer(sequencer: str) -> str:
    """Pad a sequencer so that comparing strings orders the events of one key.

    S3 defines the order of sequencers of different lengths as: right-pad the shorter one with zeros, then compare
    them as text (https://repost.aws/knowledge-center/s3-duplicate-sqs-messages).

    Raises
    ------
    MalformedMessageError
        If it is not hexadecimal, or longer than 32 digits.
    """
    if not _HEX.fullmatch(sequencer):
        raise MalformedMessageError(
            f"object.sequencer is {sequencer[:100]!r}, expected 1 to {SEQUENCER_WIDTH} hex digits"
        )
    return sequencer.lower().ljust(SEQUENCER_WIDTH, "0")


def message_id_of(message: object) -> str | None:
    """Return a queue message's id, or None if it has none."""
    if not isinstance(message, dict):
        return None
    found = message.get("message_id") or message.get("messageId")
    return found if isinstance(found, str) and found else None


def _of_notification(records: object) -> dict[str, Any]:
    """Return a notification of S3 in the form of EventBridge's event.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """
    if not isinstance(records, list) or len(records) != 1:
        raise MalformedMessageError("Records is not a list of one event")
    (record,) = records
    return {"time": _member(record, "eventTime"), "detail": detail_of_record(record)}


def detail_of_record(record: object) -> dict[str, Any]:
    """Return the bucket and the object of a notification's record, as EventBridge's event has them in its detail.

    Raises
    ------
    MalformedMessageError
        If the record does not have them.
    """
    told = _member(record, "s3")
    entry = _member(told, "object")
    key = unquote_plus(_text(_member(entry, "key"), "object.key"))
    named = {"key": key, "version-id": entry.get("versionId") or None, "etag": entry.get("eTag")}
    return {"bucket": _member(told, "bucket"), "object": {**entry, **named}}


def _source_of(item: object) -> str:
    """Return what stands for a payload's bucket: the service and the name of an ARN, or what the item says itself."""
    if (bucket := _member(item, "bucket")) is not None:
        if not _SERVICE.match(text := _text(bucket, "item.bucket")):  # no bucket of S3 has such a name
            raise MalformedMessageError(f"item.bucket is {text!r:.200}, expected a service and a name")
        return text
    text = _text(_member(item, "source"), "item.source")
    if (arn := _ARN.match(text)) is None:
        raise MalformedMessageError(f"item.source is {text!r:.200}, expected an ARN")
    return f"{arn[1]}:{arn[2]}"


def _id_of(item: dict[str, Any]) -> object:
    """Return an item's id: a table's single key is its value, as text, and a composite one JSON with both."""
    found = item.get("id")
    if (keys := item.get("keys")) is not None:
        try:
            texts = {name: text for name in sorted(keys) for text in keys[name].values()}
        except (AttributeError, TypeError) as error:
            raise MalformedMessageError(f"item.keys is {keys!r:.200}, expected typed values by name") from error
        found = _json(texts) if len(texts) > 1 else next(iter(texts.values()), None)
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else found


def _range(item: dict[str, Any]) -> ByteRange | None:
    if (found := item.get("range")) is None:
        return None
    from inference_runtime.stages.byte_range import ByteRange  # noqa: PLC0415 - for parts of objects only

    return ByteRange.from_json(found)


def _payload(body: Any, item: dict[str, Any]) -> bytes:  # noqa: ANN401 - any JSON value
    """Return a payload as the bytes that preprocessing gets: a text as it is, and other JSON written tightly."""
    if (member := item.get("member")) is not None:
        body = _member(body, member)
    encoding = item.get("encoding")
    if encoding == "base64" and isinstance(body, str):
        # A pipe brings data that is JSON as such. So a text is JSON too, or the base64 of something else.
        with suppress(ValueError):
            return b64decode(body, validate=True)
    if encoding == "dynamodb":
        from inference_runtime.stages.attribute_values import plain  # noqa: PLC0415 - for tables only

        body = plain(body)
    text = body if isinstance(body, str) else _json(body)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MalformedMessageError("body is not valid Unicode") from error


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _iso(time: str) -> str:
    """Return a time as ISO 8601, if it is a number of seconds or milliseconds since the epoch."""
    if not _NUMBER.fullmatch(time):
        return time
    number = float(time)
    seconds = number if number < _FIRST_MILLISECONDS else number / 1000
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError) as error:
        raise MalformedMessageError(f"item.time is {time}, expected a time") from error


def _parsed(value: object, name: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"{name} is not JSON: {error}") from error


def _member(value: object, name: str) -> Any:  # noqa: ANN401 - any JSON value
    if not isinstance(value, dict):
        raise MalformedMessageError(f"expected an object with a member {name!r}, got {type(value).__name__}")
    return value.get(name)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise MalformedMessageError(f"{name} is {value!r:.100}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which is not a character
        raise MalformedMessageError(f"{name} is not valid Unicode") from error
    return value


def _size(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_SIZE:
        raise MalformedMessageError(f"object.size is {value!r:.100}, expected a number of bytes")
    return value
