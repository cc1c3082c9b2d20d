"""Handler of the function in which a user's own code decides which way an item goes."""

from __future__ import annotations

import logging
from typing import Any

from inference_runtime.errors import MalformedMessageError, StageError, failure_of
from inference_runtime.lifecycle import answers_warming
from inference_runtime.stages.item import Item, message_id_of
from inference_runtime.stages.user_code import load_stage

_log = logging.getLogger(__name__)
_decide = load_stage()


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Decide for each message.

    Parameters
    ----------
    event
        `{"messages": [{"message_id", "body"}]}`.
    context
        Unused.

    Returns
    -------
    dict
        `decisions`, labels by the message's id, and `failed`, `[{"message_id", "error", "cause"}]`.
    """
    decisions = {}
    failed = []
    for message in event["messages"]:
        message_id = message_id_of(message)
        try:
            label = _decide(Item.from_message(message))
            if not isinstance(label, str):
                raise StageError(f"decide returned {type(label).__name__}, expected a string")  # noqa: TRY301
        except MalformedMessageError as error:
            _log.error("malformed message %s: %s", message_id, error)
            failed.append(failure_of(message_id, error))
        except Exception as error:
            _log.exception("deciding failed: message %s", message_id)
            failed.append(failure_of(message_id, error))
        else:
            decisions[message_id] = label
    return {"decisions": decisions, "failed": failed}
