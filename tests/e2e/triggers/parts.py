"""A pipeline whose items are parts of objects, seen from outside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.e2e.conftest import Watched, key_of
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from cdk_inference.local import Cloud


class Parts(Watched):
    """A deployed pipeline with an `S3ItemsTrigger`.

    Parameters
    ----------
    cloud
        Where it is deployed.
    name
        The pipeline's path.
    trigger
        The id of the trigger, next to the pipeline.
    collects
        Whether executions wait for rows, also for those that never come.
    """

    def __init__(self, cloud: Cloud, name: str, trigger: str, *, collects: bool = False) -> None:
        stack, _ = name.split("/")
        around = [one for one in cloud.resources(pipeline=stack) if one.logical_id.startswith(trigger)]
        parts = {one.metadata["role"]: one.physical_id for one in [*cloud.resources(pipeline=name), *around]}
        within = cloud.resources(pipeline=f"{stack}/{trigger}")
        inner = {one.metadata["role"]: one.physical_id for one in within}
        super().__init__(cloud, name, bucket=f"s3:{inner['inbox']}", parts=parts)
        self.functions |= {one.metadata["stage"]: one.physical_id for one in within if "stage" in one.metadata}
        self.inbox, self.items_bucket = inner["inbox"], parts["items-bucket"]
        self.objects = self._url(inner["queue"])
        self.dead_objects = self._url(inner["dead-letter-queue"])
        self.collects = collects
        self.splitting = inner["split-state-machine"]

    def put(self, key: str, data: bytes) -> None:
        self._client("s3").put_object(Bucket=self.inbox, Key=key, Body=data)

    def event(self, key: str, sequencer: str) -> str:
        """Return the event of an object that is there, as EventBridge delivers it."""
        head = self._client("s3").head_object(Bucket=self.inbox, Key=key)
        entry = {"key": key, "size": head["ContentLength"], "etag": head["ETag"].strip('"'), "sequencer": sequencer}
        detail = {"bucket": {"name": self.inbox}, "object": {**entry, "version-id": head["VersionId"]}}
        return json.dumps({"time": "2026-01-01T00:00:00Z", "detail": detail})

    def tell(self, body: str) -> None:
        """Send an event to the queue of objects."""
        self._client("sqs").send_message(QueueUrl=self.objects, MessageBody=body)

    def settle(self, key: str, items: int, timeout: float = 2 * PATIENCE) -> dict[str, str]:
        """Wait until an object is done and has so many rows, and return their statuses by the names of the items."""
        wait_until(
            lambda: len(self.of(key)) == items and not self.busy(),
            lambda: f"{len(self.of(key))} rows of {items}; {self.busy()} left",
            timeout=timeout,
            every=0.5,
        )
        return {name: row["status"] for name, row in self.of(key).items()}

    def of(self, key: str) -> dict[str, dict[str, Any]]:
        """Return the rows of an object by the names of its items."""
        found = [(row["key"].removeprefix(f"{key}#"), row) for row in self.rows() if row["key"].startswith(f"{key}#")]
        assert len(dict(found)) == len(found)  # one row for each
        return dict(found)

    def busy(self) -> list[str]:
        """Return what is in the queues, and the executions that take objects apart."""
        waiting = [message["Body"] for queue in (self.objects, self.queue) for message in self.messages(queue)]
        running = [arn for arn, status in self.splits().items() if status == "RUNNING"]
        return waiting + ([] if self.collects else running)

    def splits(self) -> dict[str, str]:
        """Return the statuses of the executions that take large objects apart."""
        pages = self._client("stepfunctions").get_paginator("list_executions").paginate(stateMachineArn=self.splitting)
        return {one["executionArn"]: one["status"] for page in pages for one in page["executions"]}

    def failures(self, execution: str) -> list[int]:
        """Return how many invocations have failed so far, for each chunk of an execution."""
        states = self._client("stepfunctions")
        runs = states.list_map_runs(executionArn=execution)["mapRuns"]
        children = [one for run in runs for one in states.list_executions(mapRunArn=run["mapRunArn"])["executions"]]
        return [
            [event["type"] for event in self.history(child["executionArn"])].count("TaskFailed") for child in children
        ]

    def dead_letters_of(self, key: str, number: int) -> list[dict[str, Any]]:
        """Wait until there are so many dead letters of an object, and return them."""

        def found() -> list[dict[str, Any]]:
            return [one for one in self.messages(self.dead_objects) if key_of(one["Body"]) == key]

        wait_until(lambda: len(found()) == number, every=0.5)
        return found()

    def results(self, key: str) -> list[dict[str, Any]]:
        """Wait for the file of an object's results, and return its lines."""
        s3, name = self._client("s3"), f"results/{key}.jsonl"
        listed = {"Bucket": self.items_bucket, "Prefix": name}
        wait_until(lambda: s3.list_objects_v2(**listed)["KeyCount"], every=0.5)
        body = s3.get_object(Bucket=self.items_bucket, Key=name)["Body"].read()
        return [json.loads(line) for line in body.splitlines()]
