"""Errors of a stage, by what has to happen next."""

from __future__ import annotations

import re

MAX_REASON = 500
"""Longest reason that a row carries, in characters."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # SQS does not take them


class RejectItem(Exception):  # noqa: N818 - user code reads `raise RejectItem("...")`
    """The object can never be scored: it gets a row with status REJECTED and this reason, and is not retried.

    No other exception of a stage rejects: a bug must not turn good objects into rows that nothing can redrive.
    """


class MalformedMessageError(Exception):
    """A queue message does not describe an S3 object. It fails by itself, and so ends in the dead-letter queue."""


class StageError(Exception):
    """The function is configured wrongly: its environment, its user code, or a model that does not fit."""


class BatchTooLargeError(Exception):
    """The batch's metadata alone does not fit a workflow state. The workflow splits the batch and tries again."""


class OutOfMemoryError(Exception):
    """A run of the smallest possible batch takes more memory than there is. The workflow looks for the item."""


class KernelFaultError(Exception):
    """A computation failed on the GPU, for the item's sake or not: the workflow looks for an item that does it."""


class LittleTimeError(Exception):
    """The rest of the invocation's time does not suffice to write rows and say so. The workflow splits the batch."""


class RetryableError(Exception):
    """Infrastructure that the whole batch needs is out of order: the whole batch goes back to the queue."""

    def __str__(self) -> str:
        # AWS reports the class as the error's name. Emulators report only this text, so the name is part of it.
        return f"RetryableError: {super().__str__()}"


def reason_of(error: BaseException | str) -> str:
    """Describe an error, or shorten a description of one, in at most `MAX_REASON` characters."""
    # A surrogate cannot be written to DynamoDB, and a user's message may hold anything.
    text = str(error).encode("utf-8", "replace").decode("utf-8").strip()
    return _UNPRINTABLE.sub("\ufffd", text or type(error).__name__)[:MAX_REASON]


def failure_of(message_id: str | None, error: BaseException) -> dict[str, str | None]:
    """Describe what made a message fail, as the workflow takes it: `{"message_id", "error", "cause"}`."""
    return {"message_id": message_id, "error": type(error).__name__, "cause": reason_of(error)}
