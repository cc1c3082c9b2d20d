"""Scores messages in a separate process, one at a time, so that one that kills its process fails alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from inference_runtime.errors import RetryableError
from inference_runtime.stages.deadline import TimeBudget
from inference_runtime.stages.worker import DiedError, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inference_runtime.stages.deadline import Deadline

_NOT_ITS_FAULT = frozenset({"RetryableError", "LittleTimeError"})
_log = logging.getLogger(__name__)


def scored_alone(messages: Sequence[dict[str, Any]], deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Yield what the fused handler says of each message, in the same form.

    A message that kills the process, or takes longer than its share of the time, is a failure. Nobody is to blame if
    the process does not start, or time runs short.

    Parameters
    ----------
    messages
        As the fused handler takes them.
    deadline
        The deadline of the invocation.
    """
    budget = TimeBudget(deadline.left(), len(messages))
    worker: Worker | None = None
    try:
        for number, message in enumerate(messages):
            if number and budget.over():
                yield {"unfinished": [each["message_id"] for each in messages[number:]]}
                return
            try:
                worker = _started(budget.left()) if worker is None else worker
            except RetryableError as error:
                _log.error("%s", error)
                yield {"retry": [each["message_id"] for each in messages[number:]]}
                return
            seconds = budget.item_timeout()
            try:
                answer, _ = worker.ask({"message": message, "seconds": seconds}, seconds)
            except (DiedError, TimeoutError) as error:
                worker.close()
                worker = None
                yield _failed(message, error, budget, seconds)
            else:
                yield _answer_of(message, dict(answer))
    finally:
        if worker is not None:
            worker.close()


def _started(seconds: float) -> Worker:
    """Return a process that has loaded the model.

    Raises
    ------
    RetryableError
        If it does not start.
    """
    worker: Worker | None = None
    try:
        worker = Worker("inference_runtime.handlers.alone")
        header, _ = worker.receive(seconds)
    except (DiedError, TimeoutError, OSError) as error:
        if worker is not None:
            worker.close()
        raise RetryableError(f"the process for messages that came back does not start: {error}") from error
    if "error" in header:
        worker.close()
        raise RetryableError(f"the process for messages that came back does not start: {header['cause']}")
    return worker


def _failed(message: dict[str, Any], error: Exception, budget: TimeBudget, seconds: float) -> dict[str, Any]:
    if isinstance(error, TimeoutError):
        if not budget.is_fair(seconds):
            return {"unfinished": [message["message_id"]]}
        name, cause = "TookTooLongError", f"took longer than {seconds:.2g} s"
    else:
        name, cause = "ProcessDiedError", str(error)
    _log.error("message %s failed: %s", message["message_id"], cause)
    return {"failures": [{"message_id": message["message_id"], "error": name, "cause": cause}]}


def _answer_of(message: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if "error" not in answer:
        return answer
    if answer["error"] in _NOT_ITS_FAULT:
        return {"retry": [message["message_id"]]}
    failure = {"message_id": message["message_id"], "error": answer["error"], "cause": answer["cause"]}
    return {"failures": [failure]}
