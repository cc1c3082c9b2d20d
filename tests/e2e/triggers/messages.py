"""A pipeline with a queue as its trigger, seen from outside."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.e2e.conftest import Watched
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cdk_inference.local import Cloud


class Messages(Watched):
    """A deployed pipeline whose items are messages.

    Parameters
    ----------
    cloud
        Where it is deployed.
    name
        The pipeline's path.
    trigger
        The id of the trigger, next to the pipeline.
    queue
        The name of a queue that is not the trigger's own.
    source
        The bucket that rows name for a stream, which has no queue.
    """

    def __init__(
        self, cloud: Cloud, name: str, trigger: str, *, queue: str | None = None, source: str | None = None
    ) -> None:
        stack, _ = name.split("/")
        around = [one for one in cloud.resources(pipeline=stack) if one.logical_id.startswith(trigger)]
        parts = {one.metadata["role"]: one.physical_id for one in [*cloud.resources(pipeline=name), *around]}
        if queue is not None:
            parts["queue"] = queue
        super().__init__(cloud, name, bucket="", parts={"queue": "none", **parts})
        self.bucket = source or f"sqs:{self.queue.rsplit('/', 1)[-1]}"
        self.undelivered_queue = self._url(parts["undelivered-queue"]) if "undelivered-queue" in parts else None
        self._older: tuple[set[str], Counter[str]] = (set(), Counter())

    def send(self, bodies: Iterable[str]) -> list[str]:
        """Send messages, and return their ids."""
        sqs = self.cloud.client("sqs")
        return [sqs.send_message(QueueUrl=self.queue, MessageBody=body)["MessageId"] for body in bodies]

    def waiting(self) -> list[dict[str, Any]]:
        """Return the messages of the queue, if there is one."""
        return self.messages(self.queue) if self.bucket.startswith("sqs:") else []

    def undelivered(self) -> list[dict[str, Any]]:
        """Return what did not reach the queue or the workflow."""
        assert self.undelivered_queue is not None
        return self.messages(self.undelivered_queue)

    def leave_out_what_is_there(self) -> None:
        """Let `settle` tell nothing of the items of other tests, which are settled."""
        self._older = {row["key"] for row in self.rows()}, Counter(self.dead_bodies())

    def settle(self, items: int, timeout: float = 2 * PATIENCE) -> tuple[dict[str, str], list[str]]:
        """Wait until so many items have a row or a dead letter and the queue is empty; return statuses and letters."""
        wait_until(
            lambda: len(self._new_rows()) + len(self._new_letters()) >= items and not self.waiting(),
            lambda: f"{len(self._new_rows())} rows, {len(self._new_letters())} dead letters of {items}",
            timeout=timeout,
            every=0.5,
        )
        rows = self._new_rows()
        often = [key for key, times in Counter(row["key"] for row in rows).items() if times > 1]
        assert not often
        return {row["key"]: row["status"] for row in rows}, self._new_letters()

    def _new_rows(self) -> list[dict[str, Any]]:
        return [row for row in self.rows() if row["key"] not in self._older[0]]

    def _new_letters(self) -> list[str]:
        return list((Counter(self.dead_bodies()) - self._older[1]).elements())


def order(item: object, version: object, **fields: Any) -> str:
    """Return a message about an order."""
    return json.dumps({"order": {"id": item, "version": version}, "a": 1, "b": 2, "c": 3, "d": 4, **fields})
