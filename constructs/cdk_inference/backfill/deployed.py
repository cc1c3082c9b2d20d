"""A backfill that is deployed, as its operator sees it: start it, look at it, and stop it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cdk_inference.costs.backfills import BackfillPrices
from cdk_inference.errors import InferenceError
from cdk_inference.local.stacks import Stack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from cdk_inference.local.stacks import Resource

LONGEST_PACE = 60
"""Seconds that a batch may be made to last: its child execution has five minutes."""

_OUTCOMES = ("listed", "left_out", "skipped", "gone", "sent", "queued")


class BackfillError(InferenceError):
    """A backfill is not there, or cannot do what was asked."""


@dataclass(frozen=True)
class Selection:
    """The objects that a backfill is asked for.

    Attributes
    ----------
    source
        ``"prefix"``, ``"list"`` or ``"inventory"``.
    objects
        How many there are; None if only the inventory says so.
    given
        The members of the input that name them.
    file
        The list, where it has to be uploaded.
    """

    source: str
    objects: int | None
    given: dict[str, str]
    file: IO[bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Status:
    """The state of a backfill.

    Attributes
    ----------
    name
        The name of its execution.
    status
        ``RUNNING``, ``SUCCEEDED``, ``FAILED``, ``ABORTED`` or ``TIMED_OUT``.
    started_at, stopped_at
        ISO 8601; None for one that runs.
    objects
        How many objects are ``total``, ``pending``, ``running``, ``succeeded``, ``failed`` and ``aborted``, by the
        batches that they are in.
    outcomes
        The numbers of objects by what became of them, once it has ended, and None before. They were ``listed``, and
        ``left_out`` by prefix, suffix or age, ``skipped`` since they were scored, ``gone``, or ``sent`` to the
        workflow. Those that the workflow gave back were ``queued`` too.
    cause
        Why it failed, if it did.
    """

    name: str
    status: str
    started_at: str
    stopped_at: str | None
    objects: dict[str, int]
    outcomes: dict[str, int] | None
    cause: str | None


class DeployedBackfill:
    """The backfill of a deployed pipeline.

    Parameters
    ----------
    machine
        Its state machine, as it is deployed.
    session
        A session of boto3.
    """

    def __init__(self, machine: Resource, session: Any) -> None:  # noqa: ANN401 - boto3 makes its classes at run time
        self._arn = machine.physical_id
        facts = machine.metadata
        self.prefix: str = facts["prefix"]
        self.suffixes: Sequence[str] = facts["suffixes"]
        self.batch_size: int = facts["batch_size"]
        self.prices = BackfillPrices(**{"scored": None, **facts["prices"]})
        self._states = session.client("stepfunctions")
        self._s3 = session.client("s3")
        definition = json.loads(self._states.describe_state_machine(stateMachineArn=self._arn)["definition"])
        readers = {name: state["ItemReader"] for name, state in definition["States"].items() if "ItemReader" in state}
        self.bucket: str = readers["Score prefix"]["Arguments"]["Bucket"]
        self._lists: str = readers["Score list"]["Arguments"]["Bucket"]
        self._inventories: str | None = readers.get("Score inventory", {}).get("Arguments", {}).get("Bucket")

    @classmethod
    def find(cls, session: Any, stack: str, pipeline: str | None = None) -> DeployedBackfill:  # noqa: ANN401
        """Find the backfill of a pipeline by the metadata of its stack.

        Parameters
        ----------
        session
            A session of boto3.
        stack
            The name of the stack.
        pipeline
            The path of the pipeline, if several of the stack have one.

        Raises
        ------
        BackfillError
            There is none, or more than one to choose from.
        """
        machine = Stack(session.client("cloudformation"), stack).the_one(
            "backfill",
            pipeline=pipeline,
            missing="stack must have a pipeline with a backfill, {}; call pipeline.add_backfill()",
            error=BackfillError,
        )
        return cls(machine, session)

    def under(self, prefix: str | None, since: datetime | None) -> Selection:
        """Select the objects under a prefix.

        Where some of them do not count, the others become a list, so that batches are full.

        Parameters
        ----------
        prefix
            The beginning of their keys. Default: that of the trigger.
        since
            Only those that were last modified at this time or later. Default: all.

        Raises
        ------
        BackfillError
            The trigger takes no keys that begin so.
        """
        prefix = self.prefix if prefix is None else prefix
        if not prefix.startswith(self.prefix):
            raise BackfillError(
                f"prefix must begin with '{self.prefix}', as that of the trigger does, got '{prefix}'; extend it"
            )
        file, number, left_out = TemporaryFile(), 0, False  # noqa: SIM115 - the selection has it
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        for one in (one for page in pages for one in page.get("Contents", [])):
            if self._is_taken(one["Key"]) and (since is None or one["LastModified"] >= since):
                file.write(_line(one["Key"]))
                number += 1
            else:
                left_out = True
        if left_out:
            return Selection("list", number, {}, file)
        return Selection("prefix", number, {"prefix": prefix})

    def listed(self, path: Path) -> Selection:
        """Select the objects whose keys are in a file, one in a line.

        Raises
        ------
        BackfillError
            The trigger does not take one of them.
        """
        file, number = TemporaryFile(), 0  # noqa: SIM115 - the selection has it
        for key in _keys(path):
            if not self._is_taken(key):
                raise BackfillError(
                    f"keys must begin with '{self.prefix}' and end with one of {', '.join(self.suffixes) or 'anything'}"
                    f", as the trigger takes them, got '{key}'; remove it from the list"
                )
            file.write(_line(key))
            number += 1
        return Selection("list", number, {}, file)

    def inventory(self, uri: str) -> Selection:
        """Select the objects of an S3 Inventory.

        Parameters
        ----------
        uri
            Its manifest, such as ``s3://bucket/prefix/inbox/daily/2026-11-01T01-00Z/manifest.json``.

        Raises
        ------
        BackfillError
            The backfill takes no inventory of that bucket, or it is not one of CSV with keys, or not of the inbox.
        """
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if bucket != self._inventories:
            raise BackfillError(
                f"inventory must be in the bucket {self._inventories or 'that add_backfill was given'}, got '{uri}'; "
                "call pipeline.add_backfill(inventory_bucket=…)"
            )
        manifest = json.loads(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        about = {name: manifest.get(name) for name in ("sourceBucket", "fileFormat")}
        if about != {"sourceBucket": self.bucket, "fileFormat": "CSV"}:
            raise BackfillError(
                f"inventory must list {self.bucket} as CSV, got {about['sourceBucket']} as {about['fileFormat']}; "
                "name the manifest.json of such a one"
            )
        return Selection("inventory", None, {"key": key})

    def start(
        self,
        selection: Selection,
        *,
        max_concurrency: int,
        rate: float | None = None,
        since: datetime | None = None,
        models: Sequence[str] = (),
        again: Sequence[str] = (),
    ) -> str:
        """Start a backfill, and return the name of its execution.

        Parameters
        ----------
        selection
            The objects.
        max_concurrency
            Most batches at the same time.
        rate
            Most objects a second. Default: no limit.
        since
            Objects of an inventory that were last modified before are left out.
        models
            Versions of models: only what these have scored is left out. Default: those of the pipeline.
        again
            Statuses of rows that are scored again besides FAILED, such as REJECTED.

        Raises
        ------
        BackfillError
            One runs already, or the rate is too low.
        """
        if (running := self._latest("RUNNING")) is not None:
            raise BackfillError(
                f"backfill must not run twice at the same time, got '{running['name']}' running; wait, or stop it"
            )
        concurrency, pace = pace_of(rate, max_concurrency, self.batch_size)
        name = f"backfill-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        given = dict(selection.given)
        if selection.file is not None:
            given["key"] = f"lists/{name}.jsonl"
            selection.file.seek(0)
            self._s3.upload_fileobj(selection.file, self._lists, given["key"])
        wanted = {
            "source": selection.source,
            **given,
            "max_concurrency": concurrency,
            "pace": pace,
            "since": None if since is None else since.isoformat(),
            "models": list(models) or None,
            "again": list(again) or None,
        }
        self._states.start_execution(stateMachineArn=self._arn, name=name, input=json.dumps(wanted))
        return name

    def status(self, name: str | None = None) -> Status:
        """Return the state of a backfill.

        Parameters
        ----------
        name
            The name of its execution. Default: the latest one.

        Raises
        ------
        BackfillError
            There was none yet.
        """
        found = self._states.describe_execution(executionArn=self._execution(name))
        runs = self._states.list_map_runs(executionArn=found["executionArn"])["mapRuns"]
        counts: dict[str, int] = {}
        outcomes = None
        if runs:
            arn = runs[0]["mapRunArn"]
            counted = self._states.describe_map_run(mapRunArn=arn)["itemCounts"]
            counts = {
                one: counted[one]
                for one in ("total", "pending", "running", "succeeded", "failed", "timedOut", "aborted")
            }
            outcomes = self._outcomes(arn) if found["status"] != "RUNNING" else None
        stopped = found.get("stopDate")
        return Status(
            name=found["name"],
            status=found["status"],
            started_at=found["startDate"].isoformat(timespec="seconds"),
            stopped_at=None if stopped is None else stopped.isoformat(timespec="seconds"),
            objects=counts,
            outcomes=outcomes,
            cause=found.get("cause") or found.get("error"),
        )

    def stop(self, name: str | None = None) -> Status:
        """Stop a backfill; batches that have begun may still end. Start another one to go on.

        Raises
        ------
        BackfillError
            It does not run.
        """
        running = self._latest("RUNNING")
        if running is None or name not in (None, running["name"]):
            raise BackfillError(f"backfill must run to be stopped, got {name or 'none that runs'}; see its status")
        self._states.stop_execution(executionArn=running["executionArn"], cause="stopped by an operator")
        return self.status(running["name"])

    def _is_taken(self, key: str) -> bool:
        """Tell whether the trigger takes a key."""
        ends = tuple(suffix.lower() for suffix in self.suffixes) or ("",)
        return key.startswith(self.prefix) and key.lower().endswith(ends)

    def _latest(self, status: str | None = None) -> dict[str, Any] | None:
        which = {} if status is None else {"statusFilter": status}
        found = self._states.list_executions(stateMachineArn=self._arn, maxResults=1, **which)["executions"]
        return found[0] if found else None

    def _execution(self, name: str | None) -> str:
        if name is not None:
            return f"{self._arn.replace(':stateMachine:', ':execution:')}:{name}"
        latest = self._latest()
        if latest is None:
            raise BackfillError("backfill must have been started, got none; start one")
        return str(latest["executionArn"])

    def _outcomes(self, run: str) -> dict[str, int] | None:
        """Sum what the children said; None without a file of it, as after a backfill that was stopped."""
        folder = f"runs/{run.rpartition(':')[2]}"
        try:
            manifest = json.loads(self._open(f"{folder}/manifest.json").read())
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"NoSuchKey", "AccessDenied"}:
                raise
            return None
        sums = dict.fromkeys(_OUTCOMES, 0)
        for file in manifest["ResultFiles"]["SUCCEEDED"]:
            for said in map(json.loads, self._open(file["Key"]).iter_lines()):
                for name in _OUTCOMES:
                    sums[name] += said[name]
        return sums

    def _open(self, key: str) -> Any:  # noqa: ANN401 - a stream of botocore
        return self._s3.get_object(Bucket=self._lists, Key=key)["Body"]


def pace_of(rate: float | None, max_concurrency: int, batch_size: int) -> tuple[int, float]:
    """Return how many batches may run at a time, and how many seconds each lasts at least.

    Raises
    ------
    BackfillError
        The rate is so low that a batch would last too long.
    """
    if rate is None:
        return max_concurrency, 0
    if batch_size / rate > LONGEST_PACE:
        raise BackfillError(
            f"rate must be at least {batch_size / LONGEST_PACE:.2g} objects a second with batches of {batch_size}, got "
            f"{rate:g}; raise it, or give the trigger a smaller batch_size"
        )
    concurrency = max(1, min(max_concurrency, int(rate * LONGEST_PACE / batch_size)))
    return concurrency, min(concurrency * batch_size / rate, LONGEST_PACE)  # rounded, it may be a little longer


def _keys(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        yield from (line.rstrip("\r\n") for line in _filled(lines))


def _filled(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if line.strip())


def _line(key: str) -> bytes:
    return json.dumps({"Key": key}).encode() + b"\n"


def to_json(status: Status) -> str:
    """Return a status as one JSON object."""
    return json.dumps(asdict(status))
