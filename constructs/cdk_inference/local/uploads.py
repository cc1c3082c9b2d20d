"""Uploads objects to a pipeline's inbox, and waits for their outcomes."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import Binary, TypeDeserializer

from cdk_inference.local import aws
from cdk_inference.local.emulator.health import answering
from cdk_inference.local.emulator.parts import Parts, Situation
from cdk_inference.local.errors import LocalError
from cdk_inference.local.messages import key_of, messages

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence


DEAD_LETTER = "DEAD_LETTER"
SUCCEEDED = "SUCCEEDED"
_POLL_SECONDS = 0.25
_LOOK_SECONDS = 1.0  # between two looks at what the pipeline is doing
_SHOWN_KEYS = 5


@dataclass(frozen=True)
class Upload:
    """One object put into an inbox.

    Parameters
    ----------
    bucket, key, etag
        The object.
    at
        When the upload began.
    """

    bucket: str
    key: str
    etag: str
    at: datetime


@dataclass(frozen=True)
class Outcome:
    """The outcome of one object: a row of the results table, or a message in the dead-letter queue.

    Parameters
    ----------
    key
        Key of the object.
    status
        SUCCEEDED, REJECTED or FAILED as in the row, or DEAD_LETTER.
    label, class_index, score
        The prediction's, where it has them.
    model_version
        The model's.
    reason
        Why it did not succeed.
    seconds
        From the start of the upload to the row; of rows whose upload is not known, from S3's event to the row.
    route
        The route that answered, in a pipeline with routes.
    inference
        Where its model ran: ``"cpu"`` or ``"gpu"``, or ``"none"``.
    prediction
        The whole prediction, with numbers as int or float, and bytes in base64.
    row
        The whole row, or the dead message's body.
    """

    key: str
    status: str
    label: str | None = None
    class_index: int | None = None
    score: float | None = None
    model_version: str | None = None
    reason: str | None = None
    seconds: float | None = None
    route: str | None = None
    inference: str | None = None
    prediction: dict[str, Any] | None = None
    row: dict[str, Any] | None = None

    def as_json(self, *, whole: bool = False) -> str:
        """Return one line of JSON.

        Parameters
        ----------
        whole
            Whether the row is in it, or the dead message's body. Default: it is not.
        """
        return json.dumps({name: plain(value) for name, value in vars(self).items() if whole or name != "row"})


class Pipeline:
    """A deployed pipeline, seen from outside: its inbox, its results and its dead letters.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    name
        Name of the pipeline.
    inbox
        Name of the bucket where objects land; None if items come from somewhere else.
    prefix
        The beginning that keys must have.
    table
        Name of the results table; None if there are no rows.
    source
        The name that rows have for where such items come from, such as ``"sqs:orders"``. Default: unknown.
    dead_letter_queue
        Name or URL of the dead-letter queue, if there is one.
    parts
        The rest of it, to say what it is doing. Default: unknown.
    check
        Raises `LocalError` once a part of the embedded AWS has ended. Default: it never raises.
    report
        Returns the last failure of some pipes since a moment in milliseconds since the epoch, if there is one. Default:
        it knows of none.
    told
        Faults of functions that a caller knows of, by time and name. Default: none.
    """

    def __init__(
        self,
        endpoint: str,
        name: str,
        *,
        inbox: str | None,
        prefix: str,
        table: str | None,
        source: str | None = None,
        dead_letter_queue: str | None = None,
        parts: Parts | None = None,
        check: Callable[[], None] | None = None,
        report: Callable[[int, Collection[str]], str | None] | None = None,
        told: set[tuple[int, str]] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._told = told if told is not None else set()
        self.parts = parts if parts is not None else Parts()
        self._check = check or (lambda: None)
        self._report = report or (lambda _since, _pipes: None)
        self.table = table
        self.dead_letter_queue = dead_letter_queue
        self.name = name
        self.inbox = inbox
        self.source = source
        self.prefix = prefix
        self.env = self.parts.env
        self._s3 = aws.client(endpoint, "s3", self.env)
        self._dynamodb = aws.client(endpoint, "dynamodb", self.env)

    def put(self, key: str, data: bytes) -> Upload:
        """Put an object into the inbox.

        Parameters
        ----------
        key
            Key of the object.
        data
            Its content.

        Returns
        -------
        Upload
            To wait for.

        Raises
        ------
        LocalError
            If it has no inbox.
        """
        if self.inbox is None:
            raise LocalError(
                f"pipeline must have an inbox for this, got {self.name}, whose items come from "
                f"{self.source or 'somewhere else'}; send them there, or use the console"
            )
        at = datetime.now(UTC)
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)  # rows carry milliseconds
        with answering(self._check):
            answer = self._s3.put_object(Bucket=self.inbox, Key=key, Body=data)
        return Upload(bucket=self.inbox, key=key, etag=answer["ETag"].strip('"'), at=at)

    def outcomes(self) -> list[Outcome]:
        """Return what became of every object, by time."""
        with answering(self._check):
            rows = [(str(row["recorded_at"]), self._outcome(row, _event_time(row))) for row in self._rows()]
            dead = [(str(event.get("time", "")), _dead(event, reason)) for event, reason in self._dead_letters()]
        return [outcome for _, outcome in sorted(rows + dead, key=lambda pair: (pair[0], pair[1].key))]

    def history(self, key: str) -> list[Outcome]:
        """Return what became of an object, of each version and model, the last written first.

        Parameters
        ----------
        key
            Its key.

        Raises
        ------
        LocalError
            If it has neither a row nor a dead letter.
        """
        found = [outcome for outcome in self.outcomes() if outcome.key == key]
        if not found:
            raise LocalError(
                f"key must be that of an object with a row or a dead letter, got {key!r}; list the results"
            )
        return found[::-1]

    def wait_for(
        self,
        uploads: Sequence[Upload],
        timeout: float,
        *,
        on_line: Callable[[str], None] | None = None,
        on_look: Callable[[], None] | None = None,
    ) -> list[Outcome]:
        """Wait until each upload has a row or is a dead letter.

        Parameters
        ----------
        uploads
            The result of ``put``.
        timeout
            Seconds to wait.
        on_line
            Called with a line that says how many objects are done, and what the queue, the executions and the logs
            say of the others.
        on_look
            Called about once a second, and before it returns or raises.

        Returns
        -------
        list of Outcome
            One for each upload, in their order.

        Raises
        ------
        LocalError
            If some have neither in time. At once, if a part of the embedded AWS ends, or a function does not start.
        """
        since = round(min((upload.at for upload in uploads), default=datetime.now(UTC)).timestamp() * 1000)
        situation = Situation(self._endpoint, self.parts, since=since, report=self._report, told=self._told)
        deadline = time.monotonic() + timeout
        found: dict[Upload, Outcome] = {}
        next_look = time.monotonic()
        while True:
            now = time.monotonic()
            late = now > deadline
            looks = now >= next_look
            with answering(self._check):
                waiting = [upload for upload in uploads if upload not in found]
                found |= self._find(waiting)
                missing = [upload.key for upload in waiting if upload not in found]
                fault = situation.fault() if missing else None
                if on_look and (looks or late or fault or not missing):
                    on_look()
                if not missing:
                    return [found[upload] for upload in uploads]
                if fault:
                    raise LocalError(f"{fault}\n{_progress(found.values(), len(uploads))}")
                described = situation.describe() if late or (on_line and looks) else None
            if late:
                shown = ", ".join(missing[:_SHOWN_KEYS]) + (", ..." if len(missing) > _SHOWN_KEYS else "")
                raise LocalError(
                    f"{len(uploads)} objects must have a row or a dead letter after {timeout:.0f} s, got neither for "
                    f"{len(missing)}: {shown}; {described}"
                )
            if on_line and described:
                on_line(f"{_progress(found.values(), len(uploads))}; {described}")
            if looks:
                next_look = time.monotonic() + _LOOK_SECONDS
            time.sleep(_POLL_SECONDS)

    def _find(self, uploads: Iterable[Upload]) -> dict[Upload, Outcome]:
        by_key: dict[str, list[Upload]] = {}
        for upload in uploads:
            by_key.setdefault(upload.key, []).append(upload)
        found: dict[Upload, Outcome] = {}
        for row in self._rows():
            for upload in by_key.get(str(row["key"]), []):
                # The row of a later upload of the same key is also the end of this one.
                newer = _event_time(row) >= upload.at.replace(microsecond=0)
                written = datetime.fromisoformat(str(row["recorded_at"])) >= upload.at
                if written and (newer or row.get("etag") == upload.etag):
                    found[upload] = self._outcome(row, upload.at)
        for event, reason in self._dead_letters():
            for upload in by_key.get(key_of(event), []):
                # A moved message keeps its event, whose time has no fractions of seconds.
                if not _is_older(event, upload.at.replace(microsecond=0)):
                    found.setdefault(upload, _dead(event, reason))
        return found

    def _rows(self) -> list[dict[str, Any]]:
        if self.table is None:
            return []
        read = TypeDeserializer().deserialize
        pages = self._dynamodb.get_paginator("scan").paginate(TableName=self.table, ConsistentRead=True)
        return [{name: read(value) for name, value in item.items()} for page in pages for item in page["Items"]]

    def _dead_letters(self) -> list[tuple[dict[str, Any], str]]:
        """Return events of the dead-letter queue, and why they are there."""
        if self.dead_letter_queue is None:
            return []
        found = messages(self._endpoint, self.dead_letter_queue, self.env)
        return [(message.event, message.reason) for message in found if message.event]

    def _outcome(self, row: dict[str, Any], uploaded_at: datetime) -> Outcome:
        prediction = plain(row.get("prediction"))
        found = prediction if isinstance(prediction, dict) else {}
        label, index, score = (found.get(name) for name in ("label", "class_index", "score"))
        recorded = datetime.fromisoformat(str(row["recorded_at"]))
        return Outcome(
            key=str(row["key"]),
            status=str(row["status"]),
            # Your postprocessing may give these names to something else.
            label=label if isinstance(label, str) else None,
            class_index=index if isinstance(index, int) and not isinstance(index, bool) else None,
            score=float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None,
            model_version=row.get("model_version"),
            reason=row.get("reason"),
            seconds=round((recorded - uploaded_at).total_seconds(), 3),
            route=row.get("route"),
            inference=row.get("inference"),
            prediction=found or None,
            row=row,
        )


def plain(value: Any) -> Any:  # noqa: ANN401 - any value of a row
    """Return a value of a row as JSON has it: numbers as int or float, bytes in base64, and sets as lists."""
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case Binary():
            return base64.b64encode(value.value).decode("ascii")  # type: ignore[attr-defined]  # the stub lacks it
        case dict():
            return {name: plain(member) for name, member in value.items()}
        case list():
            return [plain(member) for member in value]
        case set():
            return sorted(map(plain, value))
    return value


def _event_time(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(str(row["event_time"]))


def _progress(found: Collection[Outcome], wanted: int) -> str:
    dead = sum(outcome.status == DEAD_LETTER for outcome in found)
    said = f"{len(found) - dead} of {wanted} objects have a row"
    return f"{said}, {dead} in the dead-letter queue" if dead else said


def _is_older(event: dict[str, Any], moment: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(event.get("time"))) < moment
    except (ValueError, TypeError):  # not a time, or one without a time zone
        return False


def _dead(event: dict[str, Any], reason: str) -> Outcome:
    return Outcome(key=key_of(event), status=DEAD_LETTER, reason=reason, row=event)
