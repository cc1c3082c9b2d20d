"""A release that is deployed, as its operator sees it: read its records, and decide."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cdk_inference.errors import InferenceError
from cdk_inference.local.stacks import Stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.local.stacks import Resource

NOT_BEGUN, RUNNING, PROMOTED, ABORTED = "NOT_BEGUN", "RUNNING", "PROMOTED", "ABORTED"
_OPERATOR = "operator"


class ReleaseError(InferenceError):
    """A release is not there, or is not in a state for what was asked."""


@dataclass(frozen=True)
class Status:
    """The records of a release.

    Attributes
    ----------
    release
        Its id.
    pipeline
        The path of the pipeline.
    stable, candidate
        Route, model and version of the two arms.
    steps
        The shares of the candidate, in percent.
    status
        ``NOT_BEGUN``, ``RUNNING``, ``PROMOTED`` or ``ABORTED``.
    share, compared
        The percentages of the objects that the candidate answers, and that both models answer.
    history
        Every decision, oldest first, each with its evidence.
    counts
        The numbers that were counted, by record.
    """

    release: str
    pipeline: str
    stable: dict[str, str]
    candidate: dict[str, str]
    steps: Sequence[float]
    status: str
    share: float
    compared: float
    history: list[dict[str, Any]]
    counts: dict[str, dict[str, float]]


class DeployedRelease:
    """The release of a deployed pipeline.

    Parameters
    ----------
    table
        The table of releases, as it is deployed.
    dynamodb
        A client of boto3.
    """

    def __init__(self, table: Resource, dynamodb: Any) -> None:  # noqa: ANN401 - boto3 makes its classes at run time
        self._facts = table.metadata
        self._table = table.physical_id
        self._dynamodb = dynamodb

    @classmethod
    def find(cls, session: Any, stack: str, pipeline: str | None = None) -> DeployedRelease:  # noqa: ANN401
        """Find the release of a pipeline by the metadata of its stack.

        Parameters
        ----------
        session
            A session of boto3.
        stack
            The name of the stack.
        pipeline
            The path of the pipeline, if the stack has several releases.

        Raises
        ------
        ReleaseError
            There is none, or more than one to choose from.
        """
        table = Stack(session.client("cloudformation"), stack).the_one(
            "releases",
            pipeline=pipeline,
            missing="stack must have a pipeline with a release, {}; give its pipeline a release",
            error=ReleaseError,
        )
        return cls(table, session.client("dynamodb"))

    def status(self) -> Status:
        """Read all records of the release."""
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="#release = :release",
            ExpressionAttributeNames={"#release": "release"},
            ExpressionAttributeValues={":release": {"S": self._facts["release"]}},
            ConsistentRead=True,
        )
        records = {item["record"]["S"]: item for page in pages for item in page["Items"]}
        state = records.pop("state", {})
        counts = {
            record: {name: float(value["N"]) for name, value in item.items() if "N" in value}
            for record, item in sorted(records.items())
        }
        return Status(
            release=self._facts["release"],
            pipeline=self._facts["pipeline"],
            stable=self._facts["stable"],
            candidate=self._facts["candidate"],
            steps=self._facts["steps"],
            status=state.get("status", {}).get("S", NOT_BEGUN),
            share=float(state.get("share", {}).get("N", 0)),
            compared=float(state.get("compared", {}).get("N", 0)),
            history=[json.loads(entry["S"]) for entry in state.get("history", {}).get("L", [])],
            counts=counts,
        )

    def promote(self, reason: str) -> Status:
        """Give the candidate all objects at once, and end the release.

        Raises
        ------
        ReleaseError
            It was aborted or promoted before, or never writes rows.
        """
        if not self._facts["steps"]:
            raise ReleaseError(
                f"release must have steps to be promoted, got the shadow '{self._facts['release']}'; deploy a canary"
            )
        return self._decide(PROMOTED, 100, reason, after=(RUNNING,))

    def abort(self, reason: str) -> Status:
        """Give the stable model all objects at once, and end the release.

        Raises
        ------
        ReleaseError
            It was aborted before.
        """
        return self._decide(ABORTED, 0, reason, after=(RUNNING, PROMOTED))

    def _decide(self, status: str, share: float, reason: str, *, after: Sequence[str]) -> Status:
        """Move the share by one conditional write: of two who decide at the same time, one fails."""
        now = round(time.time() * 1000)
        entry = {"at": now, "by": _OPERATOR, "status": status, "share": share, "reason": reason}
        names = {":after" + str(number): {"S": each} for number, each in enumerate(after)}
        try:
            self._dynamodb.update_item(
                TableName=self._table,
                Key={"release": {"S": self._facts["release"]}, "record": {"S": "state"}},
                UpdateExpression=(
                    "SET #status = :status, #share = :share, #compared = :none, #history = "
                    "list_append(if_not_exists(#history, :empty), :entry)"
                ),
                ConditionExpression=f"attribute_not_exists(#status) OR #status IN ({', '.join(names)})",
                ExpressionAttributeNames={f"#{name}": name for name in ("status", "share", "compared", "history")},
                ExpressionAttributeValues={
                    ":status": {"S": status},
                    ":share": {"N": f"{share:g}"},
                    ":none": {"N": "0"},
                    ":empty": {"L": []},
                    ":entry": {"L": [{"S": json.dumps(entry)}]},
                    **names,
                },
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            raise ReleaseError(
                f"release {self._facts['release']} must be {' or '.join(after)}, got {self.status().status}; "
                "deploy another salt to release the same models again"
            ) from error
        return self.status()
