"""Starts the state machine that takes a large object apart, once for each event."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import error_code
from inference_runtime.errors import RetryableError

if TYPE_CHECKING:
    from inference_runtime.stages.item import Item

_EXISTS = "ExecutionAlreadyExists"
_UNDER_WAY = frozenset({"RUNNING", "SUCCEEDED", "PENDING_REDRIVE"})
_MOST_NAMES = 100


class Workflow:
    """The state machine.

    Parameters
    ----------
    states
        A client of Step Functions.
    arn
        Its ARN.
    """

    def __init__(self, states: Any, arn: str) -> None:  # noqa: ANN401 - a client
        self._states = states
        self._arn = arn

    def start(self, item: Item, given: dict[str, Any]) -> bool:
        """Start an execution for the event of an object, unless there is one that does not fail.

        Its name is the id of the item. After an execution that failed, it has a number besides: who redrives a dead
        letter wants another one.

        Parameters
        ----------
        item
            The object.
        given
            The input.

        Returns
        -------
        bool
            Whether one was started.

        Raises
        ------
        RetryableError
            Step Functions does not start one.
        """
        try:
            for number in range(_MOST_NAMES):
                name = f"{item.id}-{number}" if number else item.id
                try:
                    self._states.start_execution(stateMachineArn=self._arn, name=name, input=json.dumps(given))
                except ClientError as error:
                    if error_code(error) != _EXISTS:
                        raise
                    if self._status(name) in _UNDER_WAY:
                        return False
                else:
                    return True
        except (BotoCoreError, ClientError) as error:
            raise RetryableError(f"cannot start {self._arn}: {error}") from error
        raise RetryableError(f"{self._arn} failed {_MOST_NAMES} times for {item.location}")

    def _status(self, name: str) -> str:
        arn = f"{self._arn.replace(':stateMachine:', ':execution:')}:{name}"
        return str(self._states.describe_execution(executionArn=arn)["status"])
