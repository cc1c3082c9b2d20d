"""Pipes from the streams of DynamoDB and Kinesis to workflows and event buses, with the batches that AWS documents."""

from __future__ import annotations

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from cdk_inference.local.emulator.input_template import render
from cdk_inference.local.emulator.pipe_role import OutageError, PipeRole, Refusal
from cdk_inference.local.emulator.pipe_targets import EventBus, Workflow, variables_of
from cdk_inference.local.emulator.stream_sources import SOURCES
from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    import logging
    from collections import deque
    from collections.abc import Callable, Sequence

    from cdk_inference.local.emulator.stream_sources import Record, StreamSource
    from cdk_inference.local.stacks import Resource

_LARGEST_BATCH = 100  # as AWS has it where a pipe does not say
_MOST_EVENTS = 10  # that PutEvents takes
_IDLE_SECONDS = 1.0
_BACKOFF_SECONDS = 1.0
_ARNS = {
    "AWS::DynamoDB::GlobalTable": "arn:aws:dynamodb:{region}:{account}:table/{name}",
    "AWS::DynamoDB::Table": "arn:aws:dynamodb:{region}:{account}:table/{name}",
    "AWS::SQS::Queue": "arn:aws:sqs:{region}:{account}:{name}",
}


@dataclass(frozen=True)
class StreamPipeDefinition:
    """One pipe from a stream.

    Parameters
    ----------
    name, arn, role_arn, source_arn, target_arn
        As DescribePipe gives them.
    target
        Its target.
    filters
        Patterns as JSON; a record that matches one is delivered. None means all.
    input_template
        Template applied to each record, None for the record as it is.
    position
        Where the pipe begins: ``"TRIM_HORIZON"`` or ``"LATEST"``.
    batch_size
        Most records that are delivered at once.
    window
        Seconds to wait for a batch to fill.
    parallel
        Batches of a shard that are delivered at the same time, with the records of a key in one.
    bisect
        Whether a batch that failed is halved.
    retries
        Times that a batch is tried again, -1 for as long as necessary.
    max_age
        Seconds after which a record is given up, -1 for never.
    dead_letter_arn
        The queue that hears of a batch after that.
    """

    name: str
    arn: str
    role_arn: str
    source_arn: str
    target_arn: str
    target: EventBus | Workflow
    filters: tuple[str, ...] | None = None
    input_template: str | None = None
    position: str = "TRIM_HORIZON"
    batch_size: int = 1
    window: int = 0
    parallel: int = 1
    bisect: bool = False
    retries: int = -1
    max_age: int = -1
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
        source = properties.get("SourceParameters", {})
        streams = [source[each.parameters] for each in SOURCES.values() if each.parameters in source]
        stream: dict[str, Any] = streams[0] if streams else {}
        filters = source.get("FilterCriteria", {}).get("Filters")
        for each in filters or ():
            _check_exact(json.loads(each["Pattern"]), what)
        dead_letters = stream.get("DeadLetterConfig", {}).get("Arn")

        def arn(value: Any) -> str:  # noqa: ANN401
            return _arn_of(value, resources, what)

        parameters = properties.get("TargetParameters", {})
        target = _target_of(parameters, described["Name"], arn)
        most = _MOST_EVENTS if isinstance(target, EventBus) else _LARGEST_BATCH
        return cls(
            name=described["Name"],
            arn=described["Arn"],
            role_arn=described["RoleArn"],
            source_arn=described["Source"],
            target_arn=described["Target"],
            target=target,
            filters=None if filters is None else tuple(each["Pattern"] for each in filters),
            input_template=parameters.get("InputTemplate"),
            position=stream.get("StartingPosition", "TRIM_HORIZON"),
            batch_size=min(int(stream.get("BatchSize", most)), most),
            window=int(stream.get("MaximumBatchingWindowInSeconds", 0)),
            parallel=int(stream.get("ParallelizationFactor", 1)),
            bisect=stream.get("OnPartialBatchItemFailure") == "AUTOMATIC_BISECT",
            retries=int(stream.get("MaximumRetryAttempts", -1)),
            max_age=int(stream.get("MaximumRecordAgeInSeconds", -1)),
            dead_letter_arn=None if dead_letters is None else arn(dead_letters),
        )


class StreamPipe:
    """One running pipe: a thread for each shard of the stream, which delivers its records in order.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    definition
        The pipe.
    refusals, logger
        Hear of failures.
    on_end
        Is told if a thread ends unexpectedly.
    checkpoints
        The last sequence number that is done, by shard. AWS keeps these while a pipe does not run.
    """

    def __init__(
        self,
        endpoint: str,
        definition: StreamPipeDefinition,
        refusals: deque[Refusal],
        logger: logging.Logger,
        on_end: Callable[[str, BaseException], None],
        checkpoints: dict[str, str],
    ) -> None:
        self.definition = definition
        self._source: StreamSource = SOURCES[definition.source_arn.split(":")[2]]
        self._endpoint = endpoint
        self._logger = logger
        self._on_end = on_end
        self._checkpoints = checkpoints
        self._stopping = threading.Event()
        self._role = PipeRole(
            endpoint,
            name=definition.name,
            arn=definition.arn,
            role_arn=definition.role_arn,
            services=(self._source.service, definition.target.service, "sqs"),
            refusals=refusals,
            logger=logger,
            stopping=self._stopping,
        )
        self._shards: dict[str, threading.Thread] = {}
        self._watcher = self._thread(self._watch, definition.name)
        self._watcher.start()

    def ask_to_stop(self) -> None:
        """Take no more records."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until no record is in its hands any more."""
        self._watcher.join()
        for thread in self._shards.values():
            thread.join()

    def _thread(self, run: Callable[..., bool], *given: str) -> threading.Thread:
        """Return a thread that runs a function again and again; if it returns False, there was nothing to do."""

        def repeat() -> None:
            try:
                while not self._stopping.is_set():
                    try:
                        idle = not run(*given)
                    except OutageError:
                        self._stopping.wait(_BACKOFF_SECONDS)
                    else:
                        if idle:
                            self._stopping.wait(_IDLE_SECONDS)
            except BaseException as error:
                self._on_end(f"pipe {self.definition.name}", error)

        return threading.Thread(target=repeat, name=f"pipe-{given[0]}", daemon=True)

    def _watch(self, _name: str) -> bool:
        """Begin to read the shards that are new."""
        for shard in self._source.shards(self._role, self.definition.source_arn):
            if shard not in self._shards:
                self._shards[shard] = self._thread(self._take_records, shard)
                self._shards[shard].start()
        self._stopping.wait(_IDLE_SECONDS)
        return False

    def _take_records(self, shard: str) -> bool:
        """Deliver the next batches of a shard, and say whether there were any."""
        definition = self.definition
        most = definition.batch_size * definition.parallel
        records = self._read(shard, most)
        if records and len(records) < most and definition.window and not self._stopping.wait(definition.window):
            records = self._read(shard, most)
        if not records:
            return False
        wanted = [record for record in records if _wanted(definition.filters, record.event)]
        lanes = [
            lane
            for number in range(definition.parallel)
            if (lane := [one for one in wanted if crc32(one.key.encode()) % definition.parallel == number])
        ]
        if len(lanes) > 1:
            with ThreadPoolExecutor(len(lanes)) as pool:
                list(pool.map(lambda lane: self._deliver(lane, shard), lanes))
        else:
            for lane in lanes:
                self._deliver(lane, shard)
        self._checkpoints[shard] = records[-1].sequence
        return True

    def _read(self, shard: str, most: int) -> list[Record]:
        return self._source.read(
            self._role,
            self.definition.source_arn,
            shard,
            position=self.definition.position,
            after=self._checkpoints.get(shard),
            limit=most,
        )

    def _deliver(self, records: list[Record], shard: str) -> None:
        """Deliver records, however often it takes: after a failure, all from the first that failed.

        Raises
        ------
        OutageError
            The pipe is to stop before it is done.
        """
        definition = self.definition
        for tries in itertools.count():
            records = self._young(records, shard)
            failed = self._try(records) if records else set()
            if not failed:
                return
            first = next(number for number, record in enumerate(records) if record.id in failed)
            records = records[first:]
            if definition.bisect and len(records) > 1:
                half = len(records) // 2
                self._deliver(records[:half], shard)
                self._deliver(records[half:], shard)
                return
            if 0 <= definition.retries <= tries:
                self._bury(records, shard, "RetryAttemptsExhausted")
                return
            if self._stopping.wait(_BACKOFF_SECONDS):
                raise OutageError

    def _try(self, records: list[Record]) -> set[str]:
        """Deliver records once, and return the ids of those that failed."""
        definition, ids = self.definition, [record.id for record in records]
        variables = variables_of(definition)
        inputs = [render(definition.input_template, record.event, variables) for record in records]
        with suppress(OutageError):
            return definition.target.deliver(self._role, definition, inputs, ids, self._logger)
        if self._stopping.is_set():
            raise OutageError
        return set(ids)

    def _young(self, records: list[Record], shard: str) -> list[Record]:
        """Give up the records that are too old, and return the others."""
        oldest = time.time() - self.definition.max_age
        if self.definition.max_age < 0 or all(record.at >= oldest for record in records):
            return records
        self._bury([record for record in records if record.at < oldest], shard, "RecordAgeExpired")
        return [record for record in records if record.at >= oldest]

    def _bury(self, records: list[Record], shard: str, condition: str) -> None:
        """Tell the dead-letter queue where in the stream a batch is, as AWS does."""
        if self.definition.dead_letter_arn is None:
            return
        body = {
            "context": {"partnerResourceArn": self.definition.arn, "condition": condition},
            "version": "1.0",
            self._source.batch_info: {
                "shardId": shard,
                "startSequenceNumber": records[0].sequence,
                "endSequenceNumber": records[-1].sequence,
                "batchSize": len(records),
                "streamArn": self.definition.source_arn,
            },
        }
        account, name = self.definition.dead_letter_arn.split(":")[4:]
        with self._role.acting("SendMessage"):
            self._role.client("sqs").send_message(
                QueueUrl=f"{self._endpoint}/{account}/{name}", MessageBody=json.dumps(body)
            )


def _target_of(parameters: dict[str, Any], name: str, arn: Callable[[Any], str]) -> EventBus | Workflow:
    """Return what a pipe delivers to, by the parameters of its target."""
    if (machine := parameters.get("StepFunctionStateMachineParameters")) is not None:
        return Workflow(synchronous=machine.get("InvocationType") == "REQUEST_RESPONSE")
    bus = parameters.get("EventBridgeEventBusParameters", {})
    return EventBus(
        source=bus.get("Source", f"Pipe {name}"),
        detail_type=bus.get("DetailType", "Event from aws:dynamodb"),
        resources=tuple(map(arn, bus.get("Resources", ()))),
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
