"""CloudEvents as the clouds document them, written by the SDK for Python."""

from __future__ import annotations

import json
from typing import Any

from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

BATCHED = "application/cloudevents-batch+json"
TIME = "2026-01-02T03:04:05.678Z"

Message = http.HTTPMessage


def event(type: str, data: Any, **attributes: Any) -> CloudEvent:
    """An event with an id."""
    return CloudEvent({"id": "e1", "source": "/tests", "type": type, **attributes}, data)


def google(bucket: str, key: str, size: int, *, generation: int = 1767323045678000, **changes: Any) -> CloudEvent:
    """https://cloud.google.com/eventarc/docs/cloudevents#cloud-storage, shortened."""
    data = {
        "kind": "storage#object",
        "id": f"{bucket}/{key}/{generation}",
        "bucket": bucket,
        "name": key,
        "generation": str(generation),
        "metageneration": "1",
        "contentType": "image/png",
        "size": str(size),
        "md5Hash": "CwOW2Xd3Dh6AzNjCVXwSsQ==",
        "etag": "CPDEpd7p6ZADEAE=",
        "timeCreated": TIME,
        **changes,
    }
    source = f"//storage.googleapis.com/projects/_/buckets/{bucket}"
    return event("google.cloud.storage.object.v1.finalized", data, source=source, subject=f"objects/{key}")


def azure(container: str, key: str, size: int, etag: str, **changes: Any) -> CloudEvent:
    """https://learn.microsoft.com/azure/event-grid/event-schema-blob-storage, the schema of CloudEvents."""
    data = {
        "api": "PutBlockList",
        "clientRequestId": "4c5dd7fb-2c48-4a27-bb30-5361b5de920a",
        "requestId": "9aeb0fdf-c01e-0131-0922-9eb549000000",
        "eTag": etag,
        "contentType": "image/png",
        "contentLength": size,
        "blobType": "BlockBlob",
        "url": f"https://account.blob.core.windows.net/{container}/{key}",
        "sequencer": "00000000000004420000000000028963",
        "storageDiagnostics": {"batchId": "b68529f3-68cd-4744-baa4-3c0498ec19f0"},
        **changes,
    }
    return event(
        "Microsoft.Storage.BlobCreated",
        data,
        source="/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/account",
        subject=f"/blobServices/default/containers/{container}/blobs/{key}",
    )


def eventbridge(message: dict[str, Any]) -> CloudEvent:
    """An event of EventBridge, from a message of the pipeline's queue."""
    told = {"version": "0", "source": "aws.s3", "detail-type": "Object Created", "region": "eu-central-1"}
    return event("aws.s3.object.created", {**told, "time": message["time"], "detail": message["detail"]})


def notification(message: dict[str, Any], source: str = "minio:s3", name: str = "s3:ObjectCreated:Put") -> CloudEvent:
    """https://min.io/docs/minio/linux/administration/monitoring/bucket-notifications.html and S3's own."""
    told = message["detail"]
    entry = {**told["object"], "eTag": told["object"]["etag"], "versionId": told["object"].get("version-id", "")}
    del entry["etag"]
    record = {
        "eventVersion": "2.0",
        "eventSource": source,
        "eventTime": message["time"],
        "eventName": name,
        "s3": {"bucket": {"name": told["bucket"]["name"]}, "object": entry},
    }
    return event("com.amazonaws.s3.ObjectCreated:Put", {"EventName": name, "Records": [record]})


def batch(*events: CloudEvent) -> Message:
    """Events in batched mode, which the SDK has not."""
    body = b"[" + b",".join(JSONFormat().write(one) for one in events) + b"]"
    return Message({"content-type": BATCHED}, body)


def parsed(message: Message) -> Any:
    """The body, as JSON."""
    return json.loads(message.body)
