"""Calls the handler, on the main thread, with the messages that wait: those of several requests make one batch.

Only the main thread can end a stage that takes too long.
"""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from inference_runtime.errors import LittleTimeError, RetryableError, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_OF_A_DELIVERY = frozenset({"message_id", "time"})
"""The members of a message that two deliveries of one event may have in different forms."""

_log = logging.getLogger(__name__)


class Outcome(Enum):
    """The end of an event, from the best to the worst."""

    STORED = "stored"
    REJECTED = "rejected"
    MALFORMED = "malformed"
    FAILED = "failed"
    RETRY = "retry"


_FAILURES = {"MalformedMessageError": Outcome.MALFORMED, "NeverWrittenError": Outcome.REJECTED}
"""Failures that another try cannot help, by the name of the error."""


@dataclass(frozen=True)
class Scored:
    """The end of a message, and what is to be said of it.

    Attributes
    ----------
    outcome
        How it ended.
    reason
        Why it is not stored; empty if it is.
    answer
        The content of its row, in the form of `stages.answers.answers_of`. It is empty if there is no row, such as for
        an object that was overwritten.
    """

    outcome: Outcome
    reason: str = ""
    answer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Waiting:
    message: dict[str, Any]
    future: Future[Scored]


class _Invocation:
    """Stands for Lambda's context: a batch that begins now.

    Parameters
    ----------
    seconds
        That it may take.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds that are left."""
        return max(0, int((self._end - time.monotonic()) * 1000))


class Scorer:
    """Scores messages one batch after the other.

    Parameters
    ----------
    handler
        That of a fused function.
    max_batch
        Most messages of a batch.
    seconds
        That a batch may take.
    """

    def __init__(self, handler: Callable[[dict[str, Any], Any], Any], *, max_batch: int, seconds: float) -> None:
        self._handler = handler
        self._max_batch = max_batch
        self._seconds = seconds
        self._waiting: SimpleQueue[_Waiting | None] = SimpleQueue()

    def submit(self, message: dict[str, Any]) -> Future[Scored]:
        """Let a message be scored, on whichever thread this is called."""
        waiting = _Waiting(message, Future())
        self._waiting.put(waiting)
        return waiting.future

    def stop(self) -> None:
        """Let `run` return once everything before is scored; signal handlers may call this too."""
        self._waiting.put(None)

    def run(self) -> None:
        """Score what is submitted until `stop` is called."""
        while (first := self._waiting.get()) is not None:
            batch, stopped = [first], False
            while len(batch) < self._max_batch and not stopped:
                try:
                    other = self._waiting.get_nowait()
                except Empty:
                    break
                if other is None:
                    stopped = True
                else:
                    batch.append(other)
            # Whoever asked may have gone meanwhile.
            self._score([waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()])
            if stopped:
                return

    def _score(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        asked = _grouped(batch)
        event = {"messages": [waiting[0].message for waiting in asked], "answers": "rows"}
        try:
            done = self._handler(event, _Invocation(self._seconds))
        except RetryableError as error:
            _log.exception("a batch cannot be scored now")
            self._end(batch, Scored(Outcome.RETRY, reason_of(error)))
        except Exception as error:
            _log.exception("a batch of %s cannot be scored", len(batch))
            if len(asked) == 1:
                outcome = Outcome.RETRY if isinstance(error, LittleTimeError) else Outcome.FAILED
                self._end(batch, Scored(outcome, reason_of(error)))
            for waiting in asked if len(asked) > 1 else ():  # one of them may be the cause, or all take too long
                self._score(waiting)
        else:
            _answer(asked, done)

    @staticmethod
    def _end(batch: Sequence[_Waiting], scored: Scored) -> None:
        for waiting in batch:
            waiting.future.set_result(scored)


def _grouped(batch: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """Return those together whose events are the same: the handler scores one, and says nothing of the others."""
    if len(batch) == 1:
        return [list(batch)]
    found: dict[str, list[_Waiting]] = {}
    for waiting in batch:
        known = {name: value for name, value in waiting.message.items() if name not in _OF_A_DELIVERY}
        if "item" in known:
            known["item"] = {name: value for name, value in known["item"].items() if name not in _OF_A_DELIVERY}
        found.setdefault(json.dumps(known, sort_keys=True), []).append(waiting)
    return list(found.values())


def _answer(asked: Sequence[Sequence[_Waiting]], done: dict[str, Any]) -> None:
    """Tell who waits how their messages ended."""
    ended = {answer["message_id"]: _of_answer(answer) for answer in done["answers"]}
    for failure in done["failures"]:
        outcome = _FAILURES.get(failure["error"], Outcome.FAILED)
        ended[failure["message_id"]] = Scored(outcome, f"{failure['error']}: {failure['cause']}")
    for message_id in (*done["retry"], *done["unfinished"]):
        ended[message_id] = Scored(Outcome.RETRY, "the event cannot be scored now")
    for same in asked:
        # There is nothing of an object that was overwritten.
        scored = ended.get(same[0].message["message_id"], Scored(Outcome.STORED))
        for waiting in same:
            waiting.future.set_result(scored)


def _of_answer(answer: dict[str, Any]) -> Scored:
    if answer["status"] == "SUCCEEDED":
        return Scored(Outcome.STORED, answer=answer)
    return Scored(Outcome.REJECTED, answer["reason"], answer)
