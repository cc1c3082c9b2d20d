"""Writes the results of all items of an object into one object, in the order of the items."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import error_code
from inference_runtime.errors import LittleTimeError, RetryableError
from inference_runtime.splitting.names import shortened
from inference_runtime.splitting.object_writer import PART_BYTES
from inference_runtime.stages.attribute_values import plain
from inference_runtime.stages.item import SEQUENCE_WIDTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

    from inference_runtime.stages.item import Item

RESULTS = "results"
"""Where results objects are in the trigger's bucket."""

MISSING = "MISSING"
"""The status of an item that has no row when the time for that is over."""

_MEMBERS = ("key", "status", "prediction", "reason", "confidence", "model_version", "route", "variant", "first")
_MOST_KEYS = 100  # of one request to DynamoDB
_READ_BYTES = 1024**2
_TRIES, _FIRST_PAUSE = 8, 0.05
_SEQUENCER = "sequencer"  # of the event that a results object is of, among its metadata
_NO_UPLOAD = "NoSuchUpload"
_CHANGED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404"})
_NOT_THERE = frozenset({"NoSuchKey", "NotFound", "404"})


class _SupersededError(Exception):
    """A later upload of the object has rows, or a results object."""


class _NotYetError(Exception):
    """An item has no row yet; the text is its name."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a results object has been written: up to the end of a part.

    Attributes
    ----------
    upload
        Id of the multipart upload; None before its first part.
    parts
        Parts that were uploaded.
    file, line
        The list of names with the next item, and how many of its items were written.
    items, missing
        Items that were written, and how many of them had no row.
    waits_for
        Name of an item that had no row; while it has none, nothing else is read.
    """

    upload: str | None = None
    parts: int = 0
    file: str = ""
    line: int = 0
    items: int = 0
    missing: int = 0
    waits_for: str | None = None


class Results:
    """The results object of one object with many items.

    Parameters
    ----------
    s3, dynamodb
        The clients.
    bucket
        The trigger's own bucket.
    table, versions
        The results table, and the versions of models whose rows count.
    item
        The object.
    names
        Where the names of the items are, as the beginning of keys.
    part_bytes
        Bytes of a part of the results object, unless it is the last.
    """

    def __init__(
        self,
        *,
        s3: S3Client,
        dynamodb: DynamoDBClient,
        bucket: str,
        table: str,
        versions: Sequence[str],
        item: Item,
        names: str,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._s3 = s3
        self._dynamodb = dynamodb
        self._bucket = bucket
        self._table = table
        self._versions = versions
        self._source = f"s3:{item.bucket}"
        self._sequencer = str(int(item.sequencer, 16)).rjust(SEQUENCE_WIDTH, "0")
        self._names = names
        self._part_bytes = part_bytes
        self._metadata = {_SEQUENCER: self._sequencer}
        self.key = f"{RESULTS}/{shortened(item.key)}.jsonl"

    def write(self, state: dict[str, Any] | None, *, late: bool, is_over: Callable[[], bool]) -> dict[str, Any]:
        """Go on with the results object, as far as there are rows.

        Parameters
        ----------
        state
            The `state` of the last answer; None at first.
        late
            Whether to write items that have no row, too.
        is_over
            Returns whether the invocation's time is nearly over.

        Returns
        -------
        dict
            See `handlers.collect`.

        Raises
        ------
        RetryableError
            S3 or DynamoDB is out of order.
        LittleTimeError
            The time was over before a part was written.
        """
        first = done = Position(**state) if state else Position()
        buffer = bytearray()
        try:
            if done.waits_for is not None and not late:
                self._lines([done.waits_for], late=False)
            first = done = seen = replace(done, waits_for=None)
            for names, file, line in self._batches(done):
                lines = self._lines(names, late=late)
                buffer += b"".join(lines.values())
                lost = sum(found == _missing(name) for name, found in lines.items())
                items, missing = seen.items + len(lines), seen.missing + lost
                seen = replace(seen, file=file, line=line, items=items, missing=missing)
                if len(buffer) >= self._part_bytes:
                    done = seen = self._upload(seen, bytes(buffer))
                    buffer.clear()
                if is_over():
                    if done == first:
                        raise LittleTimeError("the time was over before a part of the results was written")
                    return self._answer(done, again=True)
            self._finish(seen, bytes(buffer))
        except _NotYetError as error:
            return self._answer(replace(done, waits_for=str(error)))
        except _SupersededError:
            with suppress(self._s3.exceptions.NoSuchUpload):
                self._abort(done)
            return self._answer(done, done=True, superseded=True)
        except (BotoCoreError, ClientError) as error:
            if error_code(error) == _NO_UPLOAD:
                # It was completed, and the answer was lost; or somebody ended it. Nothing of it can be gone on with.
                return self._answer(Position(), again=True)
            raise RetryableError(f"cannot write s3://{self._bucket}/{self.key}: {error}") from error
        return self._answer(seen, done=True)

    def _answer(
        self, position: Position, *, done: bool = False, again: bool = False, superseded: bool = False
    ) -> dict[str, Any]:
        return {
            "done": done,
            "again": again,
            "superseded": superseded,
            "items": position.items,
            "missing": position.missing,
            "key": self.key,
            "state": None if done else asdict(position),
        }

    def _batches(self, position: Position) -> Iterator[tuple[list[str], str, int]]:
        """Yield names of items that come after a position, and the file and the line after them."""
        size = max(1, _MOST_KEYS // len(self._versions))
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._names)
        for key in (one["Key"] for page in pages for one in page.get("Contents", ())):
            if key < position.file:
                continue
            line = position.line if key == position.file else 0
            body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"]
            names = islice((json.loads(text) for text in body.iter_lines(_READ_BYTES)), line, None)
            while batch := list(islice(names, size)):
                line += len(batch)
                yield batch, key, line

    def _lines(self, names: list[str], *, late: bool) -> dict[str, bytes]:
        """Return the lines of items by name, in their order.

        Raises
        ------
        _NotYetError
            An item has no row, and it is not late.
        _SupersededError
            A row is of a later upload.
        """
        rows: dict[str, dict[str, Any]] = {}
        for row in self._rows(names, consistent=late):
            sequencer, key = row["sequencer"]["S"], row["key"]["S"]
            if sequencer > self._sequencer:
                raise _SupersededError
            if sequencer == self._sequencer and _time(row) >= _time(rows.get(key, {})):
                rows[key] = row
        if not late and (without := next((name for name in names if name not in rows), None)) is not None:
            raise _NotYetError(without)
        return {name: _line(rows[name]) if name in rows else _missing(name) for name in names}

    def _rows(self, names: list[str], *, consistent: bool) -> list[dict[str, Any]]:
        keys: list[Any] = [
            {"object": {"S": f"{self._source}/{name}"}, "version": {"S": f"null#{version}"}}
            for name in dict.fromkeys(names)
            for version in self._versions
        ]
        found: list[dict[str, Any]] = []
        pause = _FIRST_PAUSE
        for _ in range(_TRIES):
            asked: Any = {self._table: {"Keys": keys, "ConsistentRead": consistent}}
            answer = self._dynamodb.batch_get_item(RequestItems=asked)
            found += answer["Responses"].get(self._table, [])
            left: Any = answer.get("UnprocessedKeys") or {}
            if not left:
                return found
            keys = left[self._table]["Keys"]
            time.sleep(pause)
            pause *= 2
        raise RetryableError(f"{self._table} does not answer for {len(keys)} items")

    def _upload(self, position: Position, data: bytes) -> Position:
        upload = position.upload
        if upload is None:
            made = self._s3.create_multipart_upload(Bucket=self._bucket, Key=self.key, Metadata=self._metadata)
            upload = made["UploadId"]
        number = position.parts + 1
        self._s3.upload_part(Bucket=self._bucket, Key=self.key, UploadId=upload, PartNumber=number, Body=data)
        return replace(position, upload=upload, parts=number)

    def _finish(self, position: Position, rest: bytes) -> None:
        """Write the results object in the place of an earlier one.

        Raises
        ------
        _SupersededError
            The one that is there is of a later upload.
        RetryableError
            Others write it all the time.
        """
        if position.upload is not None and rest:
            position = self._upload(position, rest)
        for _ in range(_TRIES):
            condition = self._condition()
            try:
                self._put(position, rest, condition)
            except ClientError as error:
                if error_code(error) not in _CHANGED:
                    raise
            else:
                return
        raise RetryableError(f"cannot write s3://{self._bucket}/{self.key}: it changes meanwhile")

    def _condition(self) -> dict[str, str]:
        """Return the condition of S3 that the results object is still the one that is there now."""
        try:
            found = self._s3.head_object(Bucket=self._bucket, Key=self.key)
        except ClientError as error:
            if error_code(error) not in _NOT_THERE:
                raise
            return {"IfNoneMatch": "*"}
        if found["Metadata"].get(_SEQUENCER, "") > self._sequencer:
            raise _SupersededError
        return {"IfMatch": found["ETag"]}

    def _put(self, position: Position, rest: bytes, condition: dict[str, Any]) -> None:
        if position.upload is None:
            self._s3.put_object(Bucket=self._bucket, Key=self.key, Body=rest, Metadata=self._metadata, **condition)
            return
        upload: Any = {"Bucket": self._bucket, "Key": self.key, "UploadId": position.upload}
        pages = self._s3.get_paginator("list_parts").paginate(**upload)
        parts: Any = [
            {"PartNumber": part["PartNumber"], "ETag": part["ETag"]}
            for page in pages
            for part in page["Parts"]
            if part["PartNumber"] <= position.parts
        ]
        self._s3.complete_multipart_upload(**upload, **condition, MultipartUpload={"Parts": parts})

    def _abort(self, position: Position) -> None:
        if position.upload is not None:
            self._s3.abort_multipart_upload(Bucket=self._bucket, Key=self.key, UploadId=position.upload)


def _time(row: dict[str, Any]) -> str:
    return str(row.get("recorded_at", {"S": ""})["S"])


def _line(row: dict[str, Any]) -> bytes:
    """Return a row as a line of JSON."""
    values = plain({name: row[name] for name in _MEMBERS if name in row})
    text = json.dumps(values, default=_in_base64, ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


def _missing(name: str) -> bytes:
    return json.dumps({"key": name, "status": MISSING}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _in_base64(data: bytes) -> str:
    return b64encode(data).decode()
