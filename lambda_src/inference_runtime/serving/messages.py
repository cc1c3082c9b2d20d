"""Turns an event into a message of the handler: about an object of a store, or with the data of the event."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, TypeGuard

from inference_runtime.errors import MalformedMessageError
from inference_runtime.serving.cloud_events import MalformedEventError
from inference_runtime.stages.item import detail_of_record

if TYPE_CHECKING:
    from collections.abc import Collection

    from inference_runtime.serving.cloud_events import CloudEvent

GOOGLE, AZURE = "google.cloud.storage.object.v1.", "Microsoft.Storage."
"""The beginnings of the types of events about objects of Google and Microsoft."""

SERVICE = "cloudevents"
"""The service in the bucket of a row whose item is the data of an event."""

_MAX_SOURCE_BYTES = 1000
_GOOGLE_WRITTEN, _AZURE_WRITTEN = f"{GOOGLE}finalized", f"{AZURE}BlobCreated"
_AZURE_EMPTY = frozenset({"CreateFile", "SftpCreate"})  # a file that is still to be written
_AZURE_SUBJECT = re.compile(r"/blobServices/default/containers/([^/]+)/blobs/(.+)", re.DOTALL)
_S3_SOURCES = frozenset({"aws:s3", "minio:s3"})
_EVENTBRIDGE, _WRITTEN = "aws.s3", "Object Created"
_MOST_DIGITS = 19  # of a 64-bit number
_DIGITS = 32  # of a sequencer, as `item.pad_sequencer` has it


def message_of(event: CloudEvent, message_id: str, buckets: Collection[str]) -> dict[str, Any] | None:
    """Return the message of an event; None for one about objects that were not written.

    Parameters
    ----------
    event
        The event.
    message_id
        The id of the message, which no other message has.
    buckets
        The buckets that are read. Without any, data of S3's form are data like others.

    Raises
    ------
    MalformedEventError
        The event is not what its type says, or is about another bucket.
    """
    if event.type.startswith(GOOGLE):
        found = _google(event) if event.type == _GOOGLE_WRITTEN else None
    elif event.type.startswith(AZURE):
        found = _azure(event) if event.type == _AZURE_WRITTEN else None
    elif buckets and (notification := _s3_notification(event)) is not None:
        found = _s3(notification)
    else:
        return {"message_id": message_id, **_payload(event)}
    if found is None:
        return None
    bucket = found["bucket"].get("name") if isinstance(found["bucket"], dict) else None
    if not isinstance(bucket, str) or bucket not in buckets:
        raise MalformedEventError(f"bucket must be {' or '.join(sorted(buckets)) or 'configured'}, got {bucket!a:.100}")
    return {"message_id": message_id, "time": found.pop("time", None) or event.time, "detail": found}


def _payload(event: CloudEvent) -> dict[str, Any]:
    """Take the data for the item. A redelivered event has the same id, and so the same row."""
    if len(event.source.encode()) > _MAX_SOURCE_BYTES:
        raise MalformedEventError(f"source must be at most {_MAX_SOURCE_BYTES:,} bytes long, got {event.source!a:.100}")
    item = {
        "bucket": f"{SERVICE}:{event.source}",
        "id": event.id,
        "sequence": "0",
        "time": event.time,
        "encoding": "base64",
    }
    return {"item": item, "body": base64.b64encode(event.data or b"").decode()}


def _google(event: CloudEvent) -> dict[str, Any]:
    """Read `StorageObjectData`: https://github.com/googleapis/google-cloudevents."""
    told = _members(event)
    generation, size = told.get("generation"), told.get("size")
    if not (_is_number(generation) and _is_number(size)):
        raise MalformedEventError(f"data must have generation and size in digits, got {generation!a:.40}, {size!a:.40}")
    entry = {
        "key": told.get("name"),
        "size": int(size),
        "etag": told.get("etag"),
        "sequencer": f"{int(generation):0{_DIGITS}x}",
        "version-id": generation,
    }
    return {"bucket": {"name": told.get("bucket")}, "object": entry}


def _azure(event: CloudEvent) -> dict[str, Any] | None:
    """Read `StorageBlobCreatedEventData`: https://learn.microsoft.com/azure/event-grid/event-schema-blob-storage."""
    told = _members(event)
    if told.get("api") in _AZURE_EMPTY and not told.get("contentLength"):
        return None
    subject = _AZURE_SUBJECT.fullmatch(event.subject or "")
    if subject is None:
        raise MalformedEventError(f"subject must name a container and a blob, got {event.subject!a:.200}")
    sequencer = told.get("sequencer")
    if not isinstance(sequencer, str):
        raise MalformedEventError(f"data must have a sequencer, got {sequencer!a:.100}")
    entry = {
        "key": subject[2],
        "size": told.get("contentLength"),
        "etag": told.get("eTag"),
        "sequencer": sequencer.lstrip("0").rjust(_DIGITS, "0"),  # compared as text, and some are longer
    }
    return {"bucket": {"name": subject[1]}, "object": entry}


def _s3_notification(event: CloudEvent) -> dict[str, Any] | None:
    """Return data that are an event of EventBridge or a notification of S3, MinIO or their like; otherwise None."""
    if b"s3" not in (event.data or b""):
        return None
    try:
        told = event.json
    except MalformedEventError:
        return None
    if not isinstance(told, dict):
        return None
    if told.get("source") == _EVENTBRIDGE and isinstance(told.get("detail"), dict):
        return told
    records = told["Records"] if isinstance(told.get("Records"), list) else [told]
    if len(records) != 1 or not isinstance(records[0], dict) or records[0].get("eventSource") not in _S3_SOURCES:
        return None
    return {"record": records[0]}


def _s3(told: dict[str, Any]) -> dict[str, Any] | None:
    """Return the bucket and the object in EventBridge's form, and the time; None if the object was not written."""
    if "record" in told:
        name = str(told["record"].get("eventName")).removeprefix("s3:")
        if not name.startswith("ObjectCreated:"):
            return None
        try:
            return {**detail_of_record(told["record"]), "time": told["record"].get("eventTime")}
        except MalformedMessageError as error:
            raise MalformedEventError(f"data must be a notification of S3: {error}") from error
    detail = told["detail"]
    if told.get("detail-type") != _WRITTEN:
        return None
    return {"bucket": detail.get("bucket"), "object": detail.get("object"), "time": told.get("time")}


def _members(event: CloudEvent) -> dict[str, Any]:
    told = event.json
    if not isinstance(told, dict):
        raise MalformedEventError(f"data must be a JSON object, got {type(told).__name__}")
    return told


def _is_number(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS
