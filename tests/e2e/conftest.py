"""How end-to-end tests look at a pipeline: from outside, and into every queue, so that nothing gets lost unseen."""

from __future__ import annotations

import json
import urllib.parse
from collections import Counter
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from boto3.dynamodb.types import TypeDeserializer

from cdk_inference.local import aws
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cdk_inference.local import Cloud

DEAD_LETTER = "DEAD_LETTER"
_EVERY = 0.5  # seconds between two looks, each of which reads whole tables and queues


class Watched:
    """A deployed pipeline.

    Parameters
    ----------
    cloud
        Where it is deployed.
    name
        Its path, such as ``"Stages/Obedient"``.
    bucket, table
        Physical names, where they are not the pipeline's own.
    parts
        The physical ids of parts by their roles. By default, those with the pipeline's name.
    """

    def __init__(
        self,
        cloud: Cloud,
        name: str,
        *,
        bucket: str | None = None,
        table: str | None = None,
        parts: Mapping[str, str] | None = None,
    ) -> None:
        self.cloud = cloud
        self._client = cache(cloud.client)  # which asks each time what is deployed where
        self._client("s3")  # threads that put objects would make one each
        self.name = name
        resources = cloud.resources(pipeline=name)
        if parts is None:
            parts = {resource.metadata["role"]: resource.physical_id for resource in resources}
        self.bucket = bucket if bucket is not None else parts["inbox"]
        self.table = table or parts["results"]
        self.queue = self._url(parts["queue"])
        self.dead_letter_queue = self._url(parts["dead-letter-queue"])
        self.functions = {r.metadata["stage"]: r.physical_id for r in resources if "stage" in r.metadata}
        machine = parts.get("state-machine", "arn:none")  # a direct pipeline has none
        self.machine = machine if machine.startswith("arn:") else self._machine_arn(machine)

    def put(self, key: str, data: bytes, **metadata: str) -> None:
        self._client("s3").put_object(Bucket=self.bucket, Key=key, Body=data, Metadata=metadata)

    def rows(self, *keys: str) -> list[dict[str, Any]]:
        """Return the rows of some objects, or of all."""
        return [row for row in self.all_rows() if row["bucket"] == self.bucket and (not keys or row["key"] in keys)]

    def all_rows(self) -> list[dict[str, Any]]:
        """Return the rows of whatever bucket."""
        read = TypeDeserializer().deserialize
        pages = self._client("dynamodb").get_paginator("scan").paginate(TableName=self.table, ConsistentRead=True)
        return [{name: read(value) for name, value in item.items()} for page in pages for item in page["Items"]]

    def row(self, key: str) -> dict[str, Any]:
        """Return the one row of an object."""
        (row,) = self.rows(key)
        return row

    def messages(self, queue: str) -> list[dict[str, Any]]:
        """Return all messages of a queue, those in flight included, without taking any."""
        # MiniStack's own: SQS has no way to look without receiving.
        query = urllib.parse.urlencode({"QueueUrl": queue})
        regions = aws.call(self.cloud.endpoint, f"/_ministack/sqs/messages?{query}")["messages"]
        return [m for queues in regions.values() for named in queues.values() for ms in named.values() for m in ms]

    def queued(self, keys: Iterable[str]) -> list[dict[str, Any]]:
        """Return the events of some objects that are in the queue or in flight."""
        return [m for m in self.messages(self.queue) if key_of(m["Body"]) in set(keys)]

    def wait_for_queued(self, keys: Iterable[str], count: int) -> list[dict[str, Any]]:
        """Wait until so many events of some objects are in the queue or in flight, and return them."""
        wait_until(
            lambda: len(self.queued(keys)) == count,
            lambda: f"{len(self.queued(keys))} messages, not {count}",
            every=_EVERY,
        )
        return [json.loads(message["Body"]) for message in self.queued(keys)]

    @contextmanager
    def throttled(self, stage: str) -> Iterator[None]:
        """Refuse invocations of a stage for the length of a block."""
        lambda_ = self._client("lambda")
        lambda_.put_function_concurrency(FunctionName=self.functions[stage], ReservedConcurrentExecutions=0)
        try:
            yield
        finally:
            lambda_.delete_function_concurrency(FunctionName=self.functions[stage])

    def dead(self) -> list[str]:
        """Return the keys that the dead letters are about."""
        return [key for body in self.dead_bodies() if (key := key_of(body)) is not None]

    def dead_bodies(self) -> list[str]:
        return [message["Body"] for message in self.messages(self.dead_letter_queue)]

    def reasons(self) -> dict[str, tuple[str, str]]:
        """Return error and cause of the dead letters, by the keys that they are about."""
        found = {}
        for message in self.messages(self.dead_letter_queue):
            said = message["MessageAttributes"]
            if (key := key_of(message["Body"])) is not None:
                found[key] = (said["Error"]["StringValue"], said["Cause"]["StringValue"])
        return found

    def ends(self, keys: Iterable[str], timeout: float = 2 * PATIENCE) -> dict[str, str]:
        """Wait until every object has its end and none of its events is left, and return the ends.

        An end is the status of a row, or DEAD_LETTER.

        Fails if an object has no end, or more than one.
        """
        keys = set(keys)

        def found() -> Counter[tuple[str, str]]:
            rows = [(row["key"], row["status"]) for row in self.rows()]
            return Counter(end for end in rows + [(key, DEAD_LETTER) for key in self.dead()] if end[0] in keys)

        def missing() -> set[str]:
            return keys - {key for key, _ in found()}

        wait_until(
            lambda: not missing(),
            lambda: f"neither row nor dead letter: {sorted(missing())[:5]}",
            timeout=timeout,
            every=_EVERY,
        )
        # Whatever is still in the queue could become a second end.
        wait_until(lambda: not self.queued(keys), lambda: f"left over: {self.queued(keys)}", every=_EVERY)
        ends = found()
        often = [key for key, times in Counter(key for key, _ in ends.elements()).items() if times > 1]
        assert not often, (self.rows(*often), self.dead_bodies())
        return dict(ends.keys())

    def logs(self, stage: str) -> str:
        """Return what a function has logged so far."""
        return self._log(self.functions[stage])

    def metrics(self, by: str) -> Counter[tuple[str, str]]:
        """Sum what the postprocessing of all routes has recorded, by the value of a dimension and the metric."""
        found: Counter[tuple[str, str]] = Counter()
        for function in self.cloud.resources(pipeline=self.name, type="AWS::Lambda::Function"):
            if function.metadata.get("stage") != "Postprocess":
                continue
            records = [json.loads(line) for line in self._log(function.physical_id).splitlines() if '"_aws"' in line]
            for record in records:
                (directive,) = record["_aws"]["CloudWatchMetrics"]
                if ["pipeline", by] in directive["Dimensions"]:
                    for name in ("Succeeded", "Rejected", "Failed"):
                        found[record[by], name] += sum(record[name])
        return found

    def _statuses(self) -> dict[str, str]:
        pages = self._client("stepfunctions").get_paginator("list_executions").paginate(stateMachineArn=self.machine)
        return {one["executionArn"]: one["status"] for page in pages for one in page["executions"]}

    def _log(self, function: str) -> str:
        configuration = self._client("lambda").get_function_configuration(FunctionName=function)
        pages = self._client("logs").get_paginator("filter_log_events")
        group = configuration["LoggingConfig"]["LogGroup"]
        return "\n".join(e["message"] for page in pages.paginate(logGroupName=group) for e in page["events"])

    def executions(self) -> list[str]:
        """Return the workflow's executions. AWS keeps none for express workflows, the emulator does."""
        return list(self._statuses())

    def wait_for_executions(self, before: Iterable[str]) -> None:
        """Wait until there are more executions than before, and all have ended."""

        def ended() -> bool:
            statuses = self._statuses()
            new = statuses.keys() - set(before)
            return bool(new) and "RUNNING" not in {statuses[execution] for execution in new}

        wait_until(ended, lambda: f"executions since: {set(self.executions()) - set(before)}", every=_EVERY)

    def input(self, execution: str) -> str:
        """Return the input of an execution."""
        return str(self._client("stepfunctions").describe_execution(executionArn=execution)["input"])

    def history(self, execution: str) -> list[dict[str, Any]]:
        """Return the events of an execution."""
        pages = self._client("stepfunctions").get_paginator("get_execution_history")
        return [event for page in pages.paginate(executionArn=execution) for event in page["events"]]

    def _machine_arn(self, name: str) -> str:
        machines = self._client("stepfunctions").list_state_machines()["stateMachines"]
        return next(m["stateMachineArn"] for m in machines if m["name"] == name)

    def _url(self, name: str) -> str:
        return name if name.startswith("http") else f"{self.cloud.endpoint}/000000000000/{name}"


@pytest.fixture(scope="session")
def watch() -> type[Watched]:
    """Make a view of a deployed pipeline."""
    return Watched


def key_of(body: str) -> str | None:
    """Return the key of the object that a message is about, if it is about one."""
    try:
        event = json.loads(body)
        if "Records" in event:
            return urllib.parse.unquote_plus(event["Records"][0]["s3"]["object"]["key"])
        return event["detail"]["object"]["key"]
    except (ValueError, TypeError, KeyError):
        return None
