"""Streams as pipes read them: shards, and records in the form that pipes give them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from cdk_inference.local.emulator.pipe_role import env_of

if TYPE_CHECKING:
    from cdk_inference.local.emulator.pipe_role import PipeRole


@dataclass(frozen=True)
class Record:
    """A record of a stream.

    Parameters
    ----------
    event
        The record as pipes see it.
    id
        The id by which a target says that it failed.
    sequence
        Its sequence number.
    key
        The key among whose records it keeps its order.
    at
        When it came, in seconds since the epoch.
    """

    event: dict[str, Any]
    id: str
    sequence: str
    key: str
    at: float


class StreamSource(Protocol):
    """A service with streams.

    Attributes
    ----------
    service
        Its name in boto3.
    parameters, batch_info
        Its members in a pipe's parameters, and in what a dead-letter queue gets.
    """

    service: ClassVar[str]
    parameters: ClassVar[str]
    batch_info: ClassVar[str]

    def shards(self, role: PipeRole, arn: str) -> list[str]:
        """Return the names of a stream's shards."""

    def read(
        self, role: PipeRole, arn: str, shard: str, *, position: str, after: str | None, limit: int
    ) -> list[Record]:
        """Return the next records of a shard: after a sequence number, or from a position such as ``"LATEST"``."""


class DynamoDBStreams:
    """Streams of DynamoDB tables."""

    service: ClassVar[str] = "dynamodbstreams"
    parameters: ClassVar[str] = "DynamoDBStreamParameters"
    batch_info: ClassVar[str] = "DDBStreamBatchInfo"

    def shards(self, role: PipeRole, arn: str) -> list[str]:
        """Return the names of a stream's shards."""
        with role.acting("DescribeStream"):
            described = role.client(self.service).describe_stream(StreamArn=arn)
        return [shard["ShardId"] for shard in described["StreamDescription"]["Shards"]]

    def read(
        self, role: PipeRole, arn: str, shard: str, *, position: str, after: str | None, limit: int
    ) -> list[Record]:
        """Return the next records of a shard."""
        start = {"SequenceNumber": after} if after is not None else {}
        with role.acting("GetShardIterator"):
            iterator = role.client(self.service).get_shard_iterator(
                StreamArn=arn, ShardId=shard, ShardIteratorType=_iterator_type(position, after), **start
            )["ShardIterator"]
        with role.acting("GetRecords"):
            records = role.client(self.service).get_records(ShardIterator=iterator, Limit=limit)["Records"]
        return [self._record(record, arn) for record in records]

    def _record(self, record: dict[str, Any], arn: str) -> Record:
        event = _plain({**record, "eventSourceARN": arn, "awsRegion": env_of(arn).region})
        change = event["dynamodb"]
        return Record(
            event,
            id=event["eventID"],
            sequence=change["SequenceNumber"],
            key=json.dumps(change["Keys"], sort_keys=True),
            at=float(change["ApproximateCreationDateTime"]),
        )


class KinesisStreams:
    """Streams of Kinesis Data Streams."""

    service: ClassVar[str] = "kinesis"
    parameters: ClassVar[str] = "KinesisStreamParameters"
    batch_info: ClassVar[str] = "KinesisBatchInfo"

    def shards(self, role: PipeRole, arn: str) -> list[str]:
        """Return the names of a stream's shards."""
        with role.acting("ListShards"):
            return [shard["ShardId"] for shard in role.client(self.service).list_shards(StreamARN=arn)["Shards"]]

    def read(
        self, role: PipeRole, arn: str, shard: str, *, position: str, after: str | None, limit: int
    ) -> list[Record]:
        """Return the next records of a shard."""
        start = {"StartingSequenceNumber": after} if after is not None else {}
        with role.acting("GetShardIterator"):
            iterator = role.client(self.service).get_shard_iterator(
                StreamARN=arn, ShardId=shard, ShardIteratorType=_iterator_type(position, after), **start
            )["ShardIterator"]
        with role.acting("GetRecords"):
            answer = role.client(self.service).get_records(StreamARN=arn, ShardIterator=iterator, Limit=limit)
        return [self._record(record, arn, shard) for record in answer["Records"]]

    def _record(self, record: dict[str, Any], arn: str, shard: str) -> Record:
        sequence, at = record["SequenceNumber"], record["ApproximateArrivalTimestamp"].timestamp()
        event = {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": record["PartitionKey"],
            "sequenceNumber": sequence,
            "data": base64.b64encode(record["Data"]).decode(),
            "approximateArrivalTimestamp": at,
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": f"{shard}:{sequence}",
            "eventName": "aws:kinesis:record",
            "awsRegion": env_of(arn).region,
            "eventSourceARN": arn,
        }
        return Record(event, id=event["eventID"], sequence=sequence, key=record["PartitionKey"], at=at)


SOURCES: dict[str, StreamSource] = {"dynamodb": DynamoDBStreams(), "kinesis": KinesisStreams()}
"""The services by their names in ARNs."""


def _iterator_type(position: str, after: str | None) -> str:
    return position if after is None else "AFTER_SEQUENCE_NUMBER"


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as JSON has it."""

    def plain(value: object) -> object:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, datetime):
            return value.timestamp()
        return float(value) if isinstance(value, Decimal) else str(value)

    found: dict[str, Any] = json.loads(json.dumps(record, default=plain))
    return found
