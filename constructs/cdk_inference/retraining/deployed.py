"""A retraining that is deployed, as people see it: label objects, start a run, and read what became of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import InferenceError
from cdk_inference.local.stacks import Stack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cdk_inference.local.stacks import Resource

FAILED = "FAILED"
_RUN, _MONTH = "run#", "month#"


class RetrainingError(InferenceError):
    """A retraining is not there, or does not answer."""


@dataclass(frozen=True)
class TakenLabels:
    """The result of sending labels.

    Parameters
    ----------
    accepted
        How many are new.
    unchanged
        How many were there before, or are older than what is there.
    rejected
        The others: ``label`` as it was sent, and the ``reason``.
    """

    accepted: int
    unchanged: int
    rejected: list[dict[str, Any]]


@dataclass(frozen=True)
class RetrainingRun:
    """A run, as the table has it; what it does not have yet is empty.

    Parameters
    ----------
    run
        The id.
    status
        ``RUNNING``, ``DEPLOYED``, ``DELIVERED``, ``REFUSED``, ``FAILED`` or ``OVER_BUDGET``.
    reason
        Why it ended so.
    by
        The person or the rule that started it: ``labels``, ``alarm``, ``schedule``, ``budget`` or ``operator``.
    labels
        How many labels it trained with.
    started_at, ended_at
        When, ISO 8601, UTC.
    sha256
        That of the weights.
    model, version
        The model in the registry.
    """

    run: str
    status: str
    reason: str
    by: str
    labels: int
    started_at: str
    ended_at: str
    sha256: str
    model: str
    version: str


@dataclass(frozen=True)
class RetrainingStatus:
    """Labels, lock and runs.

    Parameters
    ----------
    accepted, new
        How many labels were accepted in all, and since the last run.
    holder
        The execution that has the lock; None if none has, or it has expired.
    runs_this_month
        How many runs of the budget are used.
    deferred
        The month whose budget has held a run back, such as ``2026-11``; None if none has.
    runs
        All runs, the one that started last at the end.
    """

    accepted: int
    new: int
    holder: str | None
    runs_this_month: int
    deferred: str | None
    runs: list[RetrainingRun]


class DeployedRetraining:
    """The retraining of a deployed pipeline.

    Parameters
    ----------
    machine
        The state machine, as it is deployed.
    function
        The name of the function that takes labels.
    session
        A session of boto3.
    """

    def __init__(self, machine: Resource, function: str, session: Any) -> None:  # noqa: ANN401 - boto3 makes its classes at run time
        self.machine, self.bucket = machine.physical_id, str(machine.metadata["retraining_bucket"])
        self.registry = f"s3://{self.bucket}/{machine.metadata['registry_prefix']}"
        self._runs, self._function, self._session = str(machine.metadata["runs_table"]), function, session

    @classmethod
    def find(cls, session: Any, stack: str, pipeline: str | None = None) -> DeployedRetraining:  # noqa: ANN401
        """Find the retraining of a pipeline by the metadata of its stack.

        Parameters
        ----------
        session
            A session of boto3.
        stack
            The name of the stack.
        pipeline
            The path of the pipeline, if several have a retraining.

        Raises
        ------
        RetrainingError
            There is none, or more than one to choose from.
        """
        deployed = Stack(session.client("cloudformation"), stack)
        machine = deployed.the_one(
            "retraining",
            pipeline=pipeline,
            missing="stack must have a pipeline with a retraining, {}; add one with pipeline.add_retraining",
            error=RetrainingError,
        )
        parts = deployed.resources(pipeline=machine.metadata["pipeline"], type="AWS::Lambda::Function")
        (function,) = (part.physical_id for part in parts if part.metadata.get("stage") == "TakeLabels")
        return cls(machine, function, session)

    def label(self, labels: Sequence[Mapping[str, str]]) -> TakenLabels:
        """Send labels, and return what became of them.

        Parameters
        ----------
        labels
            Each with ``key``, ``label`` and ``by``, and ``at`` or ``version_id`` if they are known.

        Raises
        ------
        RetrainingError
            The function failed.
        """
        answer = self._session.client("lambda").invoke(
            FunctionName=self._function, Payload=json.dumps({"labels": list(labels)})
        )
        said = json.load(answer["Payload"])
        if "FunctionError" in answer:
            raise RetrainingError(f"the labels must be taken by {self._function}, got {json.dumps(said)[:500]}")
        return TakenLabels(**said)

    def start(self) -> str:
        """Start a run, and return the ARN of the execution."""
        asked = {"stateMachineArn": self.machine, "input": json.dumps({"by": "operator"})}
        return str(self._session.client("stepfunctions").start_execution(**asked)["executionArn"])

    def status(self) -> RetrainingStatus:
        """Read all records."""
        now = datetime.now(UTC)
        pages = (
            self._session.client("dynamodb").get_paginator("scan").paginate(TableName=self._runs, ConsistentRead=True)
        )
        records = {item["record"]["S"]: item for page in pages for item in page["Items"]}
        counted, lock, month = (records.get(name, {}) for name in ("labels", "lock", f"{_MONTH}{now:%Y-%m}"))
        accepted = _number(counted, "accepted")
        alive = _number(lock, "expires_at") > now.timestamp() * 1000
        runs = [_run(name.removeprefix(_RUN), item) for name, item in records.items() if name.startswith(_RUN)]
        return RetrainingStatus(
            accepted=accepted,
            new=accepted - _number(counted, "selected"),
            holder=lock["owner"]["S"] if alive else None,
            runs_this_month=_number(month, "runs"),
            deferred=counted["deferred"]["S"] if "deferred" in counted else None,
            runs=sorted(runs, key=lambda run: run.started_at),
        )


def _run(run: str, item: Mapping[str, Any]) -> RetrainingRun:
    names = ("status", "reason", "by", "started_at", "ended_at", "sha256", "model", "version")
    texts = {name: str(item.get(name, {}).get("S", "")) for name in names}
    return RetrainingRun(run=run, labels=_number(item, "labels"), **texts)


def _number(item: Mapping[str, Any], name: str) -> int:
    return int(item.get(name, {}).get("N", 0))
