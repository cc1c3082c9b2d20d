"""One S3 object version on its way through the pipeline."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from inference_runtime.errors import MalformedMessageError

SEQUENCER_WIDTH = 32
_HEX = re.compile(rf"[0-9A-Fa-f]{{1,{SEQUENCER_WIDTH}}}")


@dataclass(frozen=True, slots=True)
class Item:
    """One S3 object version.

    Attributes
    ----------
    id
        SHA-256 over bucket, key and version id (or entity tag and sequencer), in hex: the same for every delivery
        of the same event.
    bucket
        Name of the bucket.
    key
        Object key, decoded.
    version_id
        Object version, or None in a bucket without versioning.
    etag
        Entity tag, without quotes.
    size
        Size in bytes.
    sequencer
        The event's sequencer, padded so that sequencers of one key sort as text: see `pad_sequencer`.
    event_time
        When the event happened, ISO 8601.
    message_id
        Id of the queue message that brought the event.
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

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Item:
        """Read a queue message with an S3 "Object Created" event of EventBridge.

        Its `body` is the event, with `time` and `detail`; or the message has these two itself. `body` and `detail` may
        be JSON strings, and the message's id is `message_id` or `messageId`. So a pipe may have a template for its
        input, whatever that makes of the body.

        EventBridge carries keys as they are, unlike S3's own notifications: nothing is decoded here.

        Raises
        ------
        MalformedMessageError
            If the message does not describe an object.
        """
        event = message if "detail" in message else _parsed(message.get("body"), "body")
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

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Item:
        """Read what `to_json` wrote."""
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the attributes as members."""
        return asdict(self)


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
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MalformedMessageError(f"object.size is {value!r:.100}, expected a number of bytes")
    return value
