"""The targets of the stand-ins of pipes: state machines, and event buses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from cdk_inference.local.emulator.pipe_role import PipeRole

_MAX_INPUT = 262_144  # characters of an execution's input


class Pipe(Protocol):
    """Where a pipe leads, as its definition says."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def arn(self) -> str:
        """Its ARN."""

    @property
    def source_arn(self) -> str:
        """The ARN of its source."""

    @property
    def target_arn(self) -> str:
        """The ARN of its target."""


class Target(Protocol):
    """A target, which takes batches.

    Attributes
    ----------
    service
        The name in boto3 of what it calls.
    """

    service: ClassVar[str]

    def deliver(
        self, role: PipeRole, pipe: Pipe, inputs: Sequence[Any], ids: Sequence[str], logger: logging.Logger
    ) -> set[str]:
        """Deliver a batch, and return the ids of what failed.

        Raises
        ------
        OutageError
            All of it failed.
        """


@dataclass(frozen=True)
class Workflow:
    """A state machine.

    Parameters
    ----------
    synchronous
        Whether the pipe waits for the execution and heeds its ``batchItemFailures``.
    """

    service: ClassVar[str] = "stepfunctions"
    synchronous: bool

    def deliver(
        self, role: PipeRole, pipe: Pipe, inputs: Sequence[Any], ids: Sequence[str], logger: logging.Logger
    ) -> set[str]:
        """Start an execution with a batch, and return the ids of what it wants to see again."""
        with role.acting("StartSyncExecution" if self.synchronous else "StartExecution"):
            payload = json.dumps(inputs)
            if len(payload) > _MAX_INPUT:
                raise LocalError(
                    f"the input of an execution must be at most {_MAX_INPUT} characters, got {len(payload)} for "
                    f"{len(inputs)} messages"
                )
            states = role.client(self.service)
            if not self.synchronous:
                states.start_execution(stateMachineArn=pipe.target_arn, input=payload)
                return set()
            answer = states.start_sync_execution(stateMachineArn=pipe.target_arn, input=payload)
            if answer["status"] != "SUCCEEDED":
                raise LocalError(
                    f"the execution must succeed, got {answer['status']}: {answer.get('error')} {answer.get('cause')}"
                )
        failed = failed_messages(answer.get("output", ""), ids)
        if failed:
            logger.info("pipe %s: %d of %d messages to be retried", pipe.name, len(failed), len(ids))
        return failed


@dataclass(frozen=True)
class EventBus:
    """An event bus.

    Parameters
    ----------
    source, detail_type, resources
        Members of each event.
    """

    service: ClassVar[str] = "events"
    source: str
    detail_type: str
    resources: tuple[str, ...] = ()

    def deliver(
        self, role: PipeRole, pipe: Pipe, inputs: Sequence[Any], ids: Sequence[str], logger: logging.Logger
    ) -> set[str]:
        """Put events, and return the ids of those that the bus did not take."""
        entries = [
            {
                "Source": self.source,
                "DetailType": self.detail_type,
                "Resources": list(self.resources),
                "Detail": json.dumps(each),
                "EventBusName": pipe.target_arn,
            }
            for each in inputs
        ]
        with role.acting("PutEvents"):
            said = role.client(self.service).put_events(Entries=entries)["Entries"]
        failed = {one: entry["ErrorMessage"] for one, entry in zip(ids, said, strict=True) if "ErrorCode" in entry}
        if failed:
            reasons = sorted(set(failed.values()))
            logger.warning("pipe %s: %d events not taken: %s", pipe.name, len(failed), reasons)
        return set(failed)


def variables_of(pipe: Pipe) -> dict[str, str]:
    """Return the reserved variables of input templates, except the event."""
    return {
        "aws.pipes.pipe-arn": pipe.arn,
        "aws.pipes.pipe-name": pipe.name,
        "aws.pipes.source-arn": pipe.source_arn,
        "aws.pipes.target-arn": pipe.target_arn,
        "aws.pipes.event.ingestion-time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def failed_messages(output: str, sent: Sequence[str]) -> set[str]:
    """Read which messages an execution wants to see again.

    Parameters
    ----------
    output
        Output of the execution.
    sent
        Message ids of the batch.

    Returns
    -------
    set of str
        Their ids: those in ``batchItemFailures``, or the whole batch if that holds anything that is not an id of it.
    """
    try:
        answer = json.loads(output)
    except ValueError:
        return set()
    failures = answer.get("batchItemFailures") if isinstance(answer, dict) else None
    if not failures:
        return set()
    ids = [entry.get("itemIdentifier") if isinstance(entry, dict) else None for entry in failures]
    return {str(identifier) for identifier in ids} if set(ids) <= set(sent) else set(sent)
