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
_SLOW = "TookTooLongError"
_FAIR_SHARE = 0.2
"""Share of an invocation's time that a message must have had before it is to blame for taking longer."""

_log = logging.getLogger(__name__)


def scored_alone(messages: Sequence[dict[str, Any]], deadline: Deadline, whole: float) -> Iterator[dict[str, Any]]:
    """Yield what the fused handler says of each message, in the same form.

    A message that kills the process, or takes longer than a fair share of the time, is a failure. Nobody is to blame if
    the process does not start, or time runs short.

    Parameters
    ----------
    messages
        As the fused handler takes them.
    deadline
        The deadline of the invocation.
    whole
        The seconds that the invocation had at its beginning.
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
                answer = _death(error, seconds)
            yield _blamed(message, dict(answer), fair=seconds >= _FAIR_SHARE * whole)
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


def _death(error: Exception, seconds: float) -> dict[str, Any]:
    """Return what the process would have said if it could."""
    if isinstance(error, TimeoutError):
        return {"error": _SLOW, "cause": f"took longer than {seconds:.2g} s"}
    return {"error": "ProcessDiedError", "cause": str(error)}


def _blamed(message: dict[str, Any], answer: dict[str, Any], *, fair: bool) -> dict[str, Any]:
    """Return an answer with its error as the failure of the message, if it is to blame."""
    message_id = message["message_id"]
    if "error" in answer:
        if answer["error"] in _NOT_ITS_FAULT:
            return {"retry": [message_id]}
        _log.error("message %s failed: %s", message_id, answer["cause"])
        failure = {"message_id": message_id, "error": answer["error"], "cause": answer["cause"]}
        answer = {"failures": [failure]}
    if not fair and any(one["error"] == _SLOW for one in answer.get("failures", ())):
        return {"unfinished": [message_id]}
    return answer
