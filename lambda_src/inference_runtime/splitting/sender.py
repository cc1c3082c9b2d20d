"""Sends the messages of items to their queue, in batches and some at a time."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.errors import RetryableError
from inference_runtime.timeouts import MAX_CONNECTIONS

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

MOST_MESSAGES = 10
MOST_BYTES = 262_144
"""The limits of SQS for one batch."""

_TRIES = 5
_FIRST_PAUSE = 0.1  # seconds, which double
_WAITING = 2 * MAX_CONNECTIONS  # batches in memory

_log = logging.getLogger(__name__)


class Sender:
    """Sends messages; a context manager, at whose end they all are in the queue.

    Parameters
    ----------
    sqs
        Thread-safe client.
    queue_url
        The queue.
    pause
        Seconds before a part of a batch that SQS did not take is sent again, the first time.
    """

    def __init__(self, sqs: Any, queue_url: str, *, pause: float = _FIRST_PAUSE) -> None:  # noqa: ANN401 - a client
        self._sqs = sqs
        self._queue_url = queue_url
        self._pause = pause
        self._pool = ThreadPoolExecutor(MAX_CONNECTIONS)
        self._sent: deque[Future[None]] = deque()
        self._batch: list[str] = []
        self._bytes = 0

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def send(self, body: str) -> None:
        """Send a message, or keep it for a batch.

        Raises
        ------
        RetryableError
            SQS does not take the messages of an earlier batch.
        """
        size = len(body.encode())
        if len(self._batch) == MOST_MESSAGES or self._bytes + size > MOST_BYTES:
            self._begin()
        self._batch.append(body)
        self._bytes += size

    def flush(self) -> None:
        """Send what was kept, and wait until the queue has all.

        Raises
        ------
        RetryableError
            SQS does not take it.
        """
        self._begin()
        while self._sent:
            self._sent.popleft().result()

    def _begin(self) -> None:
        if not self._batch:
            return
        if len(self._sent) == _WAITING:
            self._sent.popleft().result()
        entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(self._batch)]
        self._sent.append(self._pool.submit(self._send, entries))
        self._batch, self._bytes = [], 0

    def _send(self, entries: list[dict[str, str]]) -> None:
        pause = self._pause
        for attempt in range(1, _TRIES + 1):
            try:
                answer = self._sqs.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
            except (BotoCoreError, ClientError) as error:  # botocore has tried it again
                raise RetryableError(f"cannot send to {self._queue_url}: {error}") from error
            failed = {one["Id"]: one for one in answer.get("Failed", ())}
            if not failed:
                return
            reasons = json.dumps([{name: one.get(name) for name in ("Code", "Message")} for one in failed.values()])
            if attempt == _TRIES:
                raise RetryableError(f"cannot send {len(failed)} messages to {self._queue_url}: {reasons:.500}")
            _log.warning("sending %s of %s messages again: %.500s", len(failed), len(entries), reasons)
            entries = [entry for entry in entries if entry["Id"] in failed]
            time.sleep(pause)
            pause *= 2
