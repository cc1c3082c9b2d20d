"""Sends what waits, on a thread: rows first, then objects. Nothing is dropped, and nothing is written twice."""

from __future__ import annotations

import http.client
import json
import logging
import os
import sqlite3
import time
from datetime import datetime
from enum import Enum
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from inference_runtime.edge.cloud.pace import Backoff, Pace
from inference_runtime.edge.cloud.requests import AwsError, AwsRequests
from inference_runtime.edge.storage.spool import SpoolError, sync_folder
from inference_runtime.errors import RetryableError
from inference_runtime.stages.rows import put_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference_runtime.edge.settings import Settings
    from inference_runtime.edge.storage.outbox import Outbox
    from inference_runtime.edge.storage.records import Record
    from inference_runtime.edge.storage.spool import Spool

MAX_ROWS = 25
"""Rows that are sent before they are noted as sent."""

REFUSED_SECONDS = 60.0
"""Seconds at least until the next try after a refusal that somebody must mend, such as a missing permission."""

MAX_METADATA_BYTES = 2_048
"""Bytes of all names and values of an object's metadata together, as S3 counts."""

_MAX_KEY_BYTES = 1_024
_DIGEST_DIGITS = 32  # of a folder's name in the inbox
_WRITTEN_BEFORE = frozenset({"ConditionalCheckFailedException", "PreconditionFailed"})
# AWS refuses this item, whenever it is sent.
_NEVER = frozenset(
    {
        *("ValidationException", "ItemCollectionSizeLimitExceededException"),
        *("EntityTooLarge", "KeyTooLongError", "MetadataTooLarge", "InvalidArgument"),
    }
)
_ALIKE = 3  # refusals in a row, which are not the items' fault
_log = logging.getLogger(__name__)


class _End(Enum):
    """How sending one thing ended."""

    SENT = "sent"
    REFUSED = "refused"  # the next one may be taken
    FAILED = "failed"


class Uplink:
    """Sends rows and objects.

    Parameters
    ----------
    settings
        Where to, and how fast.
    version
        The component's version, for the metadata of objects.
    outbox, spool
        The records and the bytes that wait.
    sent
        Is called once something is sent, which makes room.
    """

    def __init__(
        self, settings: Settings, version: str, outbox: Outbox, spool: Spool, *, sent: Callable[[], object]
    ) -> None:
        self._settings = settings
        self._version = version
        self._outbox = outbox
        self._spool = spool
        self._sent = sent
        self._stopping, self._woken = Event(), Event()
        pace = Pace(settings.bytes_per_second, self._stopping.wait)
        self._requests = AwsRequests(pace)
        limits = settings.retry_ms / 1000, settings.max_retry_ms / 1000
        self._backoff = {"row": Backoff(*limits), "object": Backoff(*limits)}
        self._told: dict[str, str | None] = {"row": None, "object": None}
        self._refused: dict[int, float] = {}  # until when an item waits, by its sequence
        self._in_a_row = {"row": 0, "object": 0}  # refusals without a success
        self._taken: set[str] = set()  # the kinds of which AWS has taken one
        self._targets = {"row": ("RESULTS_TABLE", settings.table), "object": ("INBOX_BUCKET", settings.bucket)}
        self._thread = Thread(target=self._run, name="uplink", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    @property
    def failing(self) -> dict[str, str]:
        """Why rows, or objects, cannot be sent now."""
        return {kind: text for kind, text in self._told.items() if text is not None}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look for what waits now; a pause after a failure stays as long as it is."""
        self._woken.set()

    def stop(self, seconds: float) -> None:
        """End, at most after so many seconds. A request that is cut off then is sent again."""
        self._stopping.set()
        self._woken.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                pause = self._step()
            except (OSError, sqlite3.OperationalError, SpoolError) as error:  # of this device's disk
                _log.error("cannot read or note what waits: %s: %s", type(error).__name__, error)
                pause = REFUSED_SECONDS
            except sqlite3.ProgrammingError:
                if self._stopping.is_set():  # it took longer than `stop` waits, and the database is closed
                    return
                raise
            if pause is None or pause > 0:
                self._woken.wait(pause)  # what becomes ready meanwhile does not shorten the pause after a failure

    def _step(self) -> float | None:
        """Send rows or an object, and return the seconds until the next step; None until there is something."""
        pauses: list[float] = []
        for kind, most in (("row", MAX_ROWS), ("object", 1)):
            variable, target = self._targets[kind]
            records = self._ready(kind, most)
            if not records:
                continue
            if target is None:  # it was set when the item was answered
                self._say(kind, f"{variable} is not set")
            elif (left := self._backoff[kind].left()) > 0:
                pauses.append(left)
            elif self._send(kind, records):
                return 0.0
            else:
                pauses.append(self._backoff[kind].left())
        if self._refused:
            pauses.append(max(0.1, min(self._refused.values()) - time.monotonic()))
        return min(pauses, default=None)

    def _ready(self, kind: str, most: int) -> list[Record]:
        """Return the oldest items that AWS has not refused a short time ago."""
        now = time.monotonic()
        self._refused = {sequence: until for sequence, until in self._refused.items() if until > now}
        records = self._outbox.to_send(kind, most + len(self._refused))
        return [record for record in records if record.sequence not in self._refused][:most]

    def _send(self, kind: str, records: list[Record]) -> bool:
        """Send things, and return whether to go on at once."""
        done: list[Record] = []
        end = _End.SENT
        try:
            for record in records:
                if self._stopping.is_set():
                    break
                end = self._try(kind, record)
                if end is _End.SENT:
                    done.append(record)
                elif end is _End.FAILED:
                    break
        finally:
            if done:
                self._outbox.sent(done)
                self._sent()
        return end is not _End.FAILED

    def _try(self, kind: str, record: Record) -> _End:
        """Send one thing, and return how that ended."""
        try:
            (self._put_row if kind == "row" else self._put_object)(record)
        except AwsError as error:
            if error.code not in _WRITTEN_BEFORE:
                return self._answer(kind, record, error)
            _log.info("AWS has it already: %s", record.shown)
        except SpoolError as error:
            return self._set_aside(kind, record, error)
        except (OSError, http.client.HTTPException, RetryableError) as error:
            return self._fail(kind, f"{type(error).__name__}: {error}")
        except Exception as error:
            _log.exception("cannot send the %s of %s", kind, record.shown)
            return self._refuse(kind, record, f"{type(error).__name__}: {error}")
        if self._told[kind] is not None and not self._refused:
            _log.info("%ss are sent again", kind)
            self._told[kind] = None
        self._taken.add(kind)
        self._in_a_row[kind] = 0
        self._backoff[kind].succeed()
        return _End.SENT

    def _answer(self, kind: str, record: Record, error: AwsError) -> _End:
        """Deal with an answer of AWS that is not a success."""
        if error.transient:
            return self._fail(kind, str(error))
        if error.code in _NEVER and kind in self._taken:  # otherwise it may be a setting that is wrong
            return self._set_aside(kind, record, error)
        return self._refuse(kind, record, str(error))

    def _refuse(self, kind: str, record: Record, text: str) -> _End:
        """Have an item wait that AWS refuses, so that others go on; all of them wait if several are refused."""
        # For longer than all of them wait at most, so that those that nobody refused come next.
        self._refused[record.sequence] = time.monotonic() + 2 * self._settings.max_retry_ms / 1000
        self._in_a_row[kind] += 1
        if self._in_a_row[kind] >= _ALIKE:
            return self._fail(kind, text, least_seconds=REFUSED_SECONDS)
        self._say(kind, text)
        return _End.REFUSED

    def _say(self, kind: str, text: str) -> None:
        """Say why things cannot be sent, unless it is what was said before."""
        if self._told[kind] != text:
            self._told[kind] = text
            _log.warning("%ss cannot be sent now: %s", kind, text)

    def _fail(self, kind: str, text: str, *, least_seconds: float = 0.0) -> _End:
        """Note a failure, after which the next try waits."""
        self._backoff[kind].fail(least_seconds=least_seconds)
        self._say(kind, text)
        return _End.FAILED

    def _set_aside(self, kind: str, record: Record, error: Exception) -> _End:
        """Set aside what AWS never takes, or what is lost."""
        folder = self._settings.state / "failed"
        folder.mkdir(exist_ok=True)
        with (folder / f"{record.sequence}.json").open("w", encoding="utf-8") as file:
            json.dump({"key": record.key, **(record.answer or {})}, file)
            file.flush()
            os.fsync(file.fileno())
        if record.spool is not None:
            self._spool.move_aside(record.spool)
        sync_folder(folder)
        self._outbox.sent([record], counted="failed")
        self._sent()
        _log.error("the %s of %s is set aside in %s: %s", kind, record.shown, folder, error)
        return _End.REFUSED

    def _put_row(self, record: Record) -> None:
        answer = record.answer or {}
        row = answer["row"]
        if not answer["clock"] and "expires_at" in row:
            row = {**row, "expires_at": {"N": str(_moved(row))}}
        self._requests.call("dynamodb", "PutItem", put_request(self._settings.table or "", row))

    def _put_object(self, record: Record) -> None:
        key = object_key(self._settings.prefix, record)
        body = self._spool.mapped(record.spool or "", record.digest)
        self._requests.put_object(self._settings.bucket or "", key, body, self._metadata(record))

    def _metadata(self, record: Record) -> dict[str, str]:
        """Return the headers of an object: what the device knows of it."""
        answer = record.answer or {}
        row = answer["row"]
        headers = {
            "x-amz-meta-edge-device": self._settings.device,
            "x-amz-meta-edge-version": self._version,
            "x-amz-meta-edge-model-version": row["model_version"]["S"],
            "x-amz-meta-edge-confidence": row.get("confidence", {}).get("N", ""),
            "x-amz-meta-edge-recorded-at": row["recorded_at"]["S"],
        }
        if not answer["clock"]:
            headers["x-amz-meta-edge-clock"] = "not set"
        told = {name: plain_json(row[name]) for name in ("status", "prediction", "reason") if name in row}
        text = json.dumps(told, separators=(",", ":"))
        prefix = len("x-amz-meta-")
        room = MAX_METADATA_BYTES - sum(len(name) - prefix + len(value) for name, value in headers.items())
        if len(text) + len("edge-answer") <= room:
            headers["x-amz-meta-edge-answer"] = text
        else:
            headers["x-amz-meta-edge-answer-left-out"] = f"{len(text)} bytes"
        return headers


def object_key(prefix: str, record: Record) -> str:
    """Return the key in the inbox. It has the content's digest, so that a file is uploaded once, and keeps the suffix.

    Parameters
    ----------
    prefix
        The device's.
    record
        The item.
    """
    digest = record.digest[:_DIGEST_DIGITS]
    path = record.key.removesuffix(f"/{record.digest}")
    key = f"{prefix}{digest}/{path}"
    if len(key.encode()) <= _MAX_KEY_BYTES:
        return key
    room = _MAX_KEY_BYTES - len(f"{prefix}{digest}/".encode())
    return f"{prefix}{digest}/{path.encode()[-room:].decode(errors='ignore').lstrip('/')}"


def plain_json(attribute: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    """Return an attribute of a row that was JSON as a plain value; bytes stay base64."""
    [(kind, value)] = attribute.items()
    if kind == "N":
        return json.loads(value)
    if kind == "L":
        return [plain_json(member) for member in value]
    if kind == "M":
        return {name: plain_json(member) for name, member in value.items()}
    return None if kind == "NULL" else value


def _moved(row: dict[str, Any]) -> int:
    """Return when a row may expire whose time was wrong: as long after now as it said after the wrong time."""
    recorded = datetime.fromisoformat(row["recorded_at"]["S"]).timestamp()
    return int(time.time() + int(row["expires_at"]["N"]) - recorded)
