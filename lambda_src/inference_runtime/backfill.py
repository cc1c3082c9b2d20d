"""Plans a backfill: which of the listed objects are still to be scored, as the messages that a trigger would send."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from botocore.exceptions import ClientError

from inference_runtime.aws import error_code
from inference_runtime.stages.item import SEQUENCER_WIDTH
from inference_runtime.timeouts import MAX_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

SCORED = frozenset({"SUCCEEDED", "REJECTED"})
"""Statuses of the rows that need not be written again: a row that says FAILED is tried again."""

_FIRST = "0" * SEQUENCER_WIDTH
_NO_VERSION = "null"
_GONE = frozenset({"404", "NoSuchKey", "MethodNotAllowed", "405"})


@dataclass(frozen=True, slots=True)
class Row:
    """The parts of a row that say which object version it is about, and what scored it.

    Attributes
    ----------
    version_id
        The version of the object, or ``"null"``.
    model
        The version of the model, as the sort key has it.
    etag, sequencer, status
        As the row has them.
    """

    version_id: str
    model: str
    etag: str
    sequencer: str
    status: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """The objects that a backfill is about.

    Parameters
    ----------
    prefix, suffixes
        Those of the trigger: other objects are left out.
    since
        Objects that were last modified before are left out, if the listing says when that was; None takes all.
    encoded
        Whether the keys of the listing are URL-encoded, as those of S3 Inventory are.
    models
        The versions of models whose rows count as scored.
    again
        Statuses of rows that do not count, besides FAILED.
    """

    prefix: str
    suffixes: Sequence[str]
    since: datetime | None
    encoded: bool
    models: Collection[str]
    again: Collection[str]

    def key(self, listed: dict[str, Any]) -> str | None:
        """Return the key of a listed object, or None if the backfill leaves it out."""
        if str(listed.get("IsLatest", "true")).lower() == "false" or (
            str(listed.get("IsDeleteMarker", "false")).lower() == "true"
        ):
            return None
        key = unquote_plus(listed["Key"]) if self.encoded else str(listed["Key"])
        if not key.startswith(self.prefix) or (self.suffixes and not key.lower().endswith(tuple(self.suffixes))):
            return None
        modified = _time(listed.get("LastModified") or listed.get("LastModifiedDate"))
        if self.since is not None and modified is not None and modified < self.since:
            return None
        return key


class Planner:
    """Says which objects are still to be scored.

    An object becomes the same item as by its own event: the newest row of the object says by which sequencer. If that
    row is about another version, the object is newer, since it was looked at after the row was read. Then it gets the
    next sequencer, so that its row wins over the older one, and loses to the row of any later event. Without rows it
    gets the lowest sequencer of all.

    Parameters
    ----------
    s3, dynamodb
        Thread-safe clients.
    bucket, table
        Where the objects and the rows are.
    wanted
        The objects to take.
    """

    def __init__(self, *, s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str, wanted: Wanted) -> None:
        self._s3 = s3
        self._dynamodb = dynamodb
        self._bucket = bucket
        self._table = table
        self._wanted = wanted

    def plan(self, listed: Sequence[dict[str, Any]], run: str) -> dict[str, Any]:
        """Return the messages of a batch of listed objects, and how many objects need none.

        Parameters
        ----------
        listed
            The objects, as a listing or an inventory has them.
        run
            A name for the batch; the ids of messages begin with it.

        Returns
        -------
        dict
            `messages`, as a pipe would send them. The numbers of objects: `listed`; `left_out`, since they are not
            wanted; `skipped`, since they are scored; `gone`, since they were deleted after they were listed.
        """
        keys = [key for one in listed if (key := self._wanted.key(one)) is not None]
        with ThreadPoolExecutor(MAX_CONNECTIONS) as pool:
            found = list(pool.map(self._event, keys))
        events = [event for event in found if isinstance(event, dict)]
        return {
            "messages": [
                {"message_id": f"{run}-{number}", "receive_count": "1", "body": event}
                for number, event in enumerate(events)
            ],
            "listed": len(listed),
            "left_out": len(listed) - len(keys),
            "skipped": found.count("skipped"),
            "gone": found.count("gone"),
        }

    def _event(self, key: str) -> dict[str, Any] | str:
        """Return an object's event, or ``"skipped"`` or ``"gone"``."""
        rows = self._rows(key)  # before the object is looked at: an object that differs then is newer
        try:
            head = self._s3.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error_code(error) in _GONE:
                return "gone"
            raise
        version_id, etag = head.get("VersionId", _NO_VERSION), head["ETag"].strip('"')
        # A row without a version is about the same bytes, whenever the bucket began to have versions.
        same = [row for row in rows if row.etag == etag and row.version_id in (version_id, _NO_VERSION)]
        done = SCORED.difference(self._wanted.again)
        if any(row.model in self._wanted.models and row.status in done for row in same):
            return "skipped"
        newest = max(rows, key=lambda row: row.sequencer, default=None)
        entry = {
            "key": key,
            "size": head["ContentLength"],
            "etag": etag,
            "sequencer": _FIRST if newest is None else newest.sequencer if newest in same else _next(newest.sequencer),
        }
        if version_id != _NO_VERSION:
            entry["version-id"] = version_id
        return {
            "version": "0",
            "detail-type": "Object Created",
            "source": "aws.s3",
            # Not when the object was written: latency is that of the pipeline, and alarms watch it.
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "detail": {"version": "0", "bucket": {"name": self._bucket}, "object": entry, "reason": "backfill"},
        }

    def _rows(self, key: str) -> list[Row]:
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="#object = :object",
            ProjectionExpression="#version, etag, sequencer, #status",
            ExpressionAttributeNames={"#object": "object", "#version": "version", "#status": "status"},
            ExpressionAttributeValues={":object": {"S": f"{self._bucket}/{key}"}},
            ConsistentRead=True,
        )
        rows = []
        for item in (item for page in pages for item in page["Items"]):
            version_id, _, model = item["version"]["S"].partition("#")
            rows.append(
                Row(version_id, model, item["etag"]["S"], item["sequencer"]["S"], item["status"]["S"]),
            )
        return rows


def _next(sequencer: str) -> str:
    """Return the sequencer that sorts right after another: S3's own have fewer digits, and leave room for it."""
    return f"{min(int(sequencer, 16) + 1, 16**SEQUENCER_WIDTH - 1):0{SEQUENCER_WIDTH}x}"


def _time(value: object) -> datetime | None:
    """Return the time of a listing, seconds since the epoch or ISO 8601; None if there is none."""
    if value is None:
        return None
    text = str(value)
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except ValueError:
        return datetime.fromisoformat(text)
