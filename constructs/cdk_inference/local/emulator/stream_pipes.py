"""DynamoDB stream to event bus pipes: MiniStack creates them, and holds their records."""

from __future__ import annotations

import base64
import itertools
import json
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from cdk_inference.local.emulator.input_template import render
from cdk_inference.local.emulator.pipe_role import OutageError, PipeRole, Refusal, env_of
from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    import logging
    from collections import deque
    from collections.abc import Callable, Sequence

    from cdk_inference.local.stacks import Resource

_LARGEST_BATCH = 10  # entries that PutEvents takes
_IDLE_SECONDS = 0.5
_BACKOFF_SECONDS = 1.0
_ARNS = {
    "AWS::DynamoDB::GlobalTable": "arn:aws:dynamodb:{region}:{account}:table/{name}",
    "AWS::DynamoDB::Table": "arn:aws:dynamodb:{region}:{account}:table/{name}",
    "AWS::SQS::Queue": "arn:aws:sqs:{region}:{account}:{name}",
}


@dataclass(frozen=True)
class StreamPipeDefinition:
    """One DynamoDB stream to event bus pipe.

    Parameters
    ----------
    name, arn, role_arn, source_arn, target_arn
        As DescribePipe gives them.
    source, detail_type, resources
        Members of each event.
    filters
        Patterns as JSON; a record that matches one becomes an event. None means all.
    input_template
        Template applied to each record, None for the record as it is.
    position
        Where the pipe begins: ``"TRIM_HORIZON"`` or ``"LATEST"``.
    batch_size
        Most events that are put at once.
    retries
        Times that a batch is tried again, -1 for as long as necessary.
    dead_letter_arn
        The queue that hears of a batch after that.
    """

    name: str
    arn: str
    role_arn: str
    source_arn: str
    target_arn: str
    source: str
    detail_type: str
    resources: tuple[str, ...] = ()
    filters: tuple[str, ...] | None = None
    input_template: str | None = None
    position: str = "TRIM_HORIZON"
    batch_size: int = 1
    retries: int = -1
    dead_letter_arn: str | None = None

    @classmethod
    def of(cls, resource: Resource, described: dict[str, Any], resources: Sequence[Resource]) -> StreamPipeDefinition:
        """Read a pipe from its template resource and from DescribePipe.

        Parameters
        ----------
        resource
            The deployed ``AWS::Pipes::Pipe``: MiniStack forgets its parameters, the template does not.
        described
            Answer of DescribePipe.
        resources
            Those of the stack, which the pipe may refer to.

        Raises
        ------
        LocalError
            The pipe uses what this stand-in does not have.
        """
        properties = resource.properties
        what = f"pipe {resource.physical_id}"
        if properties.get("Enrichment"):
            raise LocalError(f"{what} cannot run locally with Enrichment")
        source, target = properties.get("SourceParameters", {}), properties.get("TargetParameters", {})
        stream, bus = source.get("DynamoDBStreamParameters", {}), target.get("EventBridgeEventBusParameters", {})
        filters = source.get("FilterCriteria", {}).get("Filters")
        for each in filters or ():
            _check_exact(json.loads(each["Pattern"]), what)
        dead_letters = stream.get("DeadLetterConfig", {}).get("Arn")

        def arn(value: Any) -> str:  # noqa: ANN401
            return _arn_of(value, resources, what)

        return cls(
            name=described["Name"],
            arn=described["Arn"],
            role_arn=described["RoleArn"],
            source_arn=described["Source"],
            target_arn=described["Target"],
            source=bus.get("Source", f"Pipe {described['Name']}"),
            detail_type=bus.get("DetailType", "Event from aws:dynamodb"),
            resources=tuple(map(arn, bus.get("Resources", ()))),
            filters=None if filters is None else tuple(each["Pattern"] for each in filters),
            input_template=target.get("InputTemplate"),
            position=stream.get("StartingPosition", "TRIM_HORIZON"),
            batch_size=min(int(stream.get("BatchSize", _LARGEST_BATCH)), _LARGEST_BATCH),
            retries=int(stream.get("MaximumRetryAttempts", -1)),
            dead_letter_arn=None if dead_letters is None else arn(dead_letters),
        )


class StreamPipe:
    """One running pipe: a thread that reads the shards of the stream and puts events."""

    def __init__(
        self,
        endpoint: str,
        definition: StreamPipeDefinition,
        refusals: deque[Refusal],
        logger: logging.Logger,
        on_end: Callable[[str, BaseException], None],
    ) -> None:
        self.definition = definition
        self._endpoint = endpoint
        self._logger = logger
        self._on_end = on_end
        self._stopping = threading.Event()
        self._role = PipeRole(
            endpoint,
            name=definition.name,
            arn=definition.arn,
            role_arn=definition.role_arn,
            services=("dynamodbstreams", "events", "sqs"),
            refusals=refusals,
            logger=logger,
            stopping=self._stopping,
        )
        self._after: dict[str, str] = {}  # the last record that is done, by shard
        self._poller = threading.Thread(target=self._poll, name=f"pipe-{definition.name}", daemon=True)
        self._poller.start()

    def ask_to_stop(self) -> None:
        """Take no more records."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until no record is in its hands any more."""
        self._poller.join()

    def _poll(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    idle = not self._take_records()
                except OutageError:
                    self._stopping.wait(_BACKOFF_SECONDS)
                else:
                    if idle:
                        self._stopping.wait(_IDLE_SECONDS)
        except BaseException as error:
            self._on_end(f"pipe {self.definition.name}", error)

    def _take_records(self) -> bool:
        """Deliver the next batch of each shard, and say whether there was one."""
        arn, found = self.definition.source_arn, False
        with self._role.acting("DescribeStream"):
            described = self._role.client("dynamodbstreams").describe_stream(StreamArn=arn)
        for shard in described["StreamDescription"]["Shards"]:
            name = shard["ShardId"]
            after = self._after.get(name)
            start = (
                {"ShardIteratorType": self.definition.position}
                if after is None
                else {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": after}
            )
            with self._role.acting("GetShardIterator"):
                iterator = self._role.client("dynamodbstreams").get_shard_iterator(
                    StreamArn=arn, ShardId=name, **start
                )["ShardIterator"]
            with self._role.acting("GetRecords"):
                records = self._role.client("dynamodbstreams").get_records(
                    ShardIterator=iterator, Limit=self.definition.batch_size
                )["Records"]
            if records:
                found = True
                self._deliver(records, name)
                self._after[name] = records[-1]["dynamodb"]["SequenceNumber"]
        return found

    def _deliver(self, records: list[dict[str, Any]], shard: str) -> None:
        """Put the events of some records, however often it takes."""
        definition = self.definition
        plain = [_as_json(record, definition.source_arn) for record in records]
        entries = [self._entry(record) for record in plain if _wanted(definition.filters, record)]
        for tries in itertools.count():
            if not entries:
                return
            with suppress(OutageError):
                entries = self._put(entries)
            if entries and 0 <= definition.retries <= tries:
                self._bury(records, shard)
                return
            if entries and self._stopping.wait(_BACKOFF_SECONDS):
                raise OutageError

    def _put(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Put events, and return those that the bus did not take."""
        with self._role.acting("PutEvents"):
            answer = self._role.client("events").put_events(Entries=entries)
            failed = [entry for entry, said in zip(entries, answer["Entries"], strict=True) if "ErrorCode" in said]
            if failed:
                reasons = sorted({said["ErrorMessage"] for said in answer["Entries"] if "ErrorCode" in said})
                self._logger.warning("pipe %s: %d events not taken: %s", self.definition.name, len(failed), reasons)
        return failed

    def _entry(self, record: dict[str, Any]) -> dict[str, Any]:
        definition = self.definition
        variables = {
            "aws.pipes.pipe-arn": definition.arn,
            "aws.pipes.pipe-name": definition.name,
            "aws.pipes.source-arn": definition.source_arn,
            "aws.pipes.target-arn": definition.target_arn,
            "aws.pipes.event.ingestion-time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return {
            "Source": definition.source,
            "DetailType": definition.detail_type,
            "Resources": list(definition.resources),
            "Detail": json.dumps(render(definition.input_template, record, variables)),
            "EventBusName": definition.target_arn,
        }

    def _bury(self, records: list[dict[str, Any]], shard: str) -> None:
        """Tell the dead-letter queue where in the stream a batch is, as AWS does."""
        if self.definition.dead_letter_arn is None:
            return
        numbers = [record["dynamodb"]["SequenceNumber"] for record in records]
        body = {
            "context": {"partnerResourceArn": self.definition.arn, "condition": "RetryAttemptsExhausted"},
            "version": "1.0",
            "DDBStreamBatchInfo": {
                "shardId": shard,
                "startSequenceNumber": numbers[0],
                "endSequenceNumber": numbers[-1],
                "batchSize": len(records),
                "streamArn": self.definition.source_arn,
            },
        }
        account, name = self.definition.dead_letter_arn.split(":")[4:]
        with self._role.acting("SendMessage"):
            self._role.client("sqs").send_message(
                QueueUrl=f"{self._endpoint}/{account}/{name}", MessageBody=json.dumps(body)
            )


def _arn_of(value: Any, resources: Sequence[Resource], what: str) -> str:  # noqa: ANN401
    """Return an ARN that a template has, or refers to."""
    match value:
        case str():
            return value
        case {"Fn::GetAtt": [name, "Arn"]}:
            for resource in resources:
                if resource.logical_id == name and resource.type in _ARNS:
                    physical = resource.physical_id.rsplit("/", 1)[-1]
                    return _ARNS[resource.type].format(name=physical, **resource.env._asdict())
    raise LocalError(f"{what} cannot run locally with a parameter that refers to {json.dumps(value)}")


def _as_json(record: dict[str, Any], stream_arn: str) -> dict[str, Any]:
    """Return a record as pipes see it."""

    def plain(value: object) -> object:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, datetime):
            return value.timestamp()
        return float(value) if isinstance(value, Decimal) else str(value)

    given = {**record, "eventSourceARN": stream_arn, "awsRegion": env_of(stream_arn).region}
    found: dict[str, Any] = json.loads(json.dumps(given, default=plain))
    return found


def _wanted(filters: Sequence[str] | None, record: dict[str, Any]) -> bool:
    return filters is None or any(_matches(json.loads(pattern), record) for pattern in filters)


def _matches(pattern: dict[str, Any], event: object) -> bool:
    """Tell whether an event matches a pattern of exact values."""
    found = event if isinstance(event, dict) else {}
    return all(
        _matches(wanted, found.get(name)) if isinstance(wanted, dict) else found.get(name) in wanted
        for name, wanted in pattern.items()
    )


def _check_exact(pattern: dict[str, Any], what: str) -> None:
    for wanted in pattern.values():
        if isinstance(wanted, dict):
            _check_exact(wanted, what)
        elif any(isinstance(value, dict) for value in wanted):
            raise LocalError(f"{what} cannot run locally with a filter by {json.dumps(wanted)}")
