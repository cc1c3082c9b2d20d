"""Reads the results of a pipeline, in programs that use them: `Results`.

It needs boto3 (``pip install 'cdk-inference[client]'``) and rights to query the table, see `ResultsTable.grant_query`.
It imports nothing of AWS CDK.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from cdk_inference.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Attribute = Mapping[str, Any]
    Row = Mapping[str, Attribute]

__all__ = ["Page", "Query", "Result", "ResultTimeoutError", "Results"]

Status = Literal["SUCCEEDED", "REJECTED", "FAILED"]

_MOST_AT_ONCE = 100  # rows that one request reads by their keys
_BACKOFF = 0.1


class ResultTimeoutError(InferenceError, TimeoutError):
    """There was no result in time."""


@dataclass(frozen=True, slots=True)
class Result:
    """The answer of a pipeline for one version of an object: a row of the results table.

    Attributes
    ----------
    bucket, key
        The object. For messages, ``bucket`` is ``sqs:`` and the name of the queue, and ``key`` the id of the item. For
        items of objects that hold many, they are ``s3:`` and the name of the bucket, and ``orders.jsonl#7``.
    version_id
        The version of the object; None in a bucket without versioning.
    status
        ``SUCCEEDED``, ``REJECTED`` or ``FAILED``.
    prediction
        The dict that the postprocessing returned, with numbers as int or float; None if it did not succeed.
    reason
        Why it did not succeed.
    model_version, inference
        The model that answered, and where it ran: ``cpu``, ``gpu`` or ``none``.
    etag, size
        Entity tag, and bytes.
    sequencer
        Sorts the events of an object: the larger, the newer.
    event_time
        When the object was created, or when a backfill looked at it; None if the event did not say it readably.
    recorded_at
        When the row was written.
    route, variant, confidence
        As the row has them, see the guide to the table.
    kept
        The values that the preprocessing kept, with numbers as int or float; None if there are none.
    explanation
        Why the model answered so, see the guide to explanations; None without one.
    row
        All attributes of the row.
    """

    bucket: str
    key: str
    version_id: str | None
    status: Status
    prediction: dict[str, Any] | None
    reason: str | None
    model_version: str
    inference: str
    etag: str
    size: int
    sequencer: str
    event_time: datetime | None
    recorded_at: datetime
    route: str | None
    variant: str | None
    confidence: float | None
    kept: dict[str, Any] | None
    explanation: dict[str, Any] | None
    row: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_row(cls, attributes: Row) -> Result:
        """Read a row, in DynamoDB's types."""
        row = {name: _value(attribute) for name, attribute in attributes.items()}
        version_id = row["version"].partition("#")[0]
        return cls(
            bucket=row["bucket"],
            key=row["key"],
            version_id=None if version_id == "null" else version_id,
            status=row["status"],
            prediction=row.get("prediction"),
            reason=row.get("reason"),
            model_version=row["model_version"],
            inference=row["inference"],
            etag=row["etag"],
            size=row["size"],
            sequencer=row["sequencer"],
            event_time=_time(row["event_time"]),
            recorded_at=datetime.fromisoformat(row["recorded_at"]),
            route=row.get("route"),
            variant=row.get("variant"),
            confidence=row.get("confidence"),
            kept=row.get("kept"),
            explanation=row.get("explanation"),
            row=row,
        )


@dataclass(frozen=True, slots=True)
class Page:
    """A page of results.

    Attributes
    ----------
    results
        The results.
    next
        The ``after`` of `Query.page` for the next page; None on the last one.
    """

    results: tuple[Result, ...]
    next: str | None


class Query:
    """Results that an index finds. Iterate over it to get them all, or take one page after the other.

    Indexes follow the table within moments, not at once.
    """

    def __init__(self, dynamodb: Any, table: str, index: str, condition: dict[str, Any], *, newest_first: bool) -> None:  # noqa: ANN401
        self._dynamodb, self._table = dynamodb, table
        self._arguments = {"TableName": table, "IndexName": index, "ScanIndexForward": not newest_first, **condition}

    def __iter__(self) -> Iterator[Result]:
        """Read page by page, as far as you go."""
        after = None
        while True:
            page = self.page(after=after)
            yield from page.results
            if page.next is None:
                return
            after = page.next

    def page(self, *, size: int = _MOST_AT_ONCE, after: str | None = None) -> Page:
        """Read one page.

        Parameters
        ----------
        size
            Most results of it, 1 to 100. Rows that are deleted meanwhile are missing from it. Default: 100.
        after
            The ``next`` of the page before. Default: the first page.

        Raises
        ------
        InferenceError
            The size is out of range.
        """
        if not 1 <= size <= _MOST_AT_ONCE:
            raise InferenceError(f"size must be 1 to {_MOST_AT_ONCE}, got {size}; read several pages")
        start = {} if after is None else {"ExclusiveStartKey": json.loads(base64.urlsafe_b64decode(after))}
        found = self._dynamodb.query(**self._arguments, Limit=size, **start)
        last = found.get("LastEvaluatedKey")
        return Page(
            results=tuple(self._read(found["Items"])),
            next=None if last is None else base64.urlsafe_b64encode(json.dumps(last).encode()).decode(),
        )

    def _read(self, keys: list[Row]) -> Iterator[Result]:
        """Read the rows that an index named, in its order: it has nothing but their keys."""
        wanted = [{"object": key["object"], "version": key["version"]} for key in keys]
        left: list[Row] = list(wanted)
        found: dict[tuple[str, str], Row] = {}
        pause = _BACKOFF
        while left:
            answer = self._dynamodb.batch_get_item(RequestItems={self._table: {"Keys": left}})
            for row in (row for rows in answer["Responses"].values() for row in rows):
                found[row["object"]["S"], row["version"]["S"]] = row
            left = [key for one in answer.get("UnprocessedKeys", {}).values() for key in one["Keys"]]
            if left:
                time.sleep(pause)
                pause = min(2 * pause, 2)
        for key in wanted:
            row = found.get((key["object"]["S"], key["version"]["S"]))
            if row is not None:
                yield Result.from_row(row)


class Results:
    """The results of a pipeline; make it by `Results.of`.

    Parameters
    ----------
    table
        Name or ARN of the table.
    dynamodb
        A client of boto3 for DynamoDB.
    """

    def __init__(self, table: str, dynamodb: Any) -> None:  # noqa: ANN401 - boto3 makes its classes at run time
        self._table = table
        self._dynamodb = dynamodb

    @classmethod
    def of(cls, table: str, *, session: Any = None) -> Results:  # noqa: ANN401
        """Return the results in a table.

        Parameters
        ----------
        table
            Name or ARN of the table.
        session
            A session of boto3. Default: one by the environment.
        """
        if session is None:
            import boto3  # noqa: PLC0415 - not for those who give a session, or read rows themselves

            session = boto3.Session()
        return cls(table, session.client("dynamodb"))

    def history(self, bucket: str, key: str) -> list[Result]:
        """Return all results of an object, of each version and model, the newest first."""
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="#object = :object",
            ExpressionAttributeNames={"#object": "object"},
            ExpressionAttributeValues={":object": {"S": f"{bucket}/{key}"}},
            ConsistentRead=True,
        )
        found = [Result.from_row(row) for page in pages for row in page["Items"]]
        return sorted(found, key=lambda one: (one.sequencer, one.recorded_at), reverse=True)

    def newest(self, bucket: str, key: str) -> Result | None:
        """Return the newest result of the newest version of an object; None if there is none."""
        return next(iter(self.history(bucket, key)), None)

    def wait(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        etag: str | None = None,
        model_version: str | None = None,
        timeout: float = 60,
        every: float = 1,
    ) -> Result:
        """Wait for the result of an object, and return it.

        Name the version that you uploaded, by what S3 answered. Otherwise you may get the result of an earlier one. An
        object that becomes a dead letter never has a result.

        Parameters
        ----------
        bucket, key
            The object.
        version_id, etag
            The version: ``VersionId`` of a bucket with versioning, ``ETag`` of one without. Default: any.
        model_version
            The version of the model. Default: any.
        timeout
            Seconds to wait at most. Default: 60.
        every
            Seconds between two looks, each of which reads the rows of the object. Default: 1.

        Raises
        ------
        ResultTimeoutError
            There is none in time.
        """
        wanted = {"version_id": version_id, "etag": etag and etag.strip('"'), "model_version": model_version}
        named = {name: value for name, value in wanted.items() if value is not None}
        end = time.monotonic() + timeout
        while True:
            for one in self.history(bucket, key):
                if all(getattr(one, name) == value for name, value in named.items()):
                    return one
            left = end - time.monotonic()
            if left <= 0:
                raise ResultTimeoutError(
                    f"the result of s3://{bucket}/{key} must be there within {timeout:g} s, got none; look into the "
                    "dead-letter queue, or wait longer"
                )
            time.sleep(min(every, left))

    def under(self, bucket: str, prefix: str = "") -> Query:
        """Find the results of objects whose keys begin so, by key. The table must have the index ``"prefix"``."""
        names, values = {"#bucket": "bucket", "#key": "key"}, {":bucket": {"S": bucket}, ":prefix": {"S": prefix}}
        begins = "#bucket = :bucket AND begins_with(#key, :prefix)" if prefix else "#bucket = :bucket"
        if not prefix:
            del names["#key"], values[":prefix"]
        return self._query("by-prefix", begins, names, values, newest_first=False)

    def recorded(self, bucket: str, *, since: datetime | None = None, until: datetime | None = None) -> Query:
        """Find the results that were written in a time, the newest first. The table must have the index ``"time"``.

        Parameters
        ----------
        bucket
            The bucket of the objects.
        since, until
            Bounds, both inclusive, with a time zone. Default: none.
        """
        return self._recent("by-time", "bucket", bucket, since, until)

    def with_status(self, status: Status, *, since: datetime | None = None, until: datetime | None = None) -> Query:
        """Find the results of a status, the newest first. The table must have the index ``"status"``.

        Parameters
        ----------
        status
            ``SUCCEEDED``, ``REJECTED`` or ``FAILED``.
        since, until
            As those of `recorded`.
        """
        return self._recent("by-status", "status", status, since, until)

    def with_label(self, label: str, *, since: datetime | None = None, until: datetime | None = None) -> Query:
        """Find the results whose prediction has a label, the newest first. The table must have the index ``"label"``.

        Rows from before the table had the index are not in it.

        Parameters
        ----------
        label
            The ``label`` of the prediction.
        since, until
            As those of `recorded`.
        """
        return self._recent("by-label", "label", label, since, until)

    def _recent(self, index: str, name: str, value: str, since: datetime | None, until: datetime | None) -> Query:
        return self._query(
            index,
            "#part = :part AND recorded_at BETWEEN :since AND :until",
            {"#part": name},
            {
                ":part": {"S": value},
                ":since": {"S": "0" if since is None else _text(since)},
                ":until": {"S": "9" if until is None else _text(until)},
            },
            newest_first=True,
        )

    def _query(
        self, index: str, condition: str, names: dict[str, str], values: dict[str, Any], *, newest_first: bool
    ) -> Query:
        wanted = {
            "KeyConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
        }
        return Query(self._dynamodb, self._table, index, wanted, newest_first=newest_first)


def _text(at: datetime) -> str:
    """Write a time as rows have it, so that texts compare as times."""
    if at.tzinfo is None:
        raise InferenceError(f"times must have a time zone, got {at.isoformat()}; use, for example, tzinfo=UTC")
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _value(attribute: Attribute) -> Any:  # noqa: ANN401 - any value of JSON, or bytes
    """Return the value of an attribute of DynamoDB."""
    ((kind, value),) = attribute.items()
    match kind:
        case "N":
            return int(value) if value.lstrip("-").isdigit() else float(value)
        case "M":
            return {name: _value(member) for name, member in value.items()}
        case "L":
            return [_value(member) for member in value]
        case "NULL":
            return None
        case "B":
            return bytes(value)
        case _:
            return value
