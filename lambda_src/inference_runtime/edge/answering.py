"""Scores items with the handler, and decides what becomes of them."""

from __future__ import annotations

import base64
import faulthandler
import json
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from inference_runtime.anywhere.collected import collected_rows
from inference_runtime.edge.clock import is_set
from inference_runtime.edge.results import told
from inference_runtime.edge.storage.outbox import Answer
from inference_runtime.errors import LittleTimeError, MalformedMessageError, reason_of
from inference_runtime.serving.scoring import Outcome, Scorer
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference_runtime.edge.package import Package
    from inference_runtime.edge.settings import Settings
    from inference_runtime.edge.storage.outbox import Outbox
    from inference_runtime.edge.storage.records import Record

HUNG_BATCH = 4
"""Times that a batch may take as long as it should. User code is ended after one, and the process after these."""

_log = logging.getLogger(__name__)


class Answers:
    """Scores items on the main thread, which alone can end user code that hangs.

    Parameters
    ----------
    package, settings
        The version with its threshold, and the settings of the device.
    outbox
        Keeps the bytes of items that are escalated.
    handler
        That of a fused function.
    begins
        Is called whenever the handler begins.
    """

    def __init__(
        self,
        package: Package,
        settings: Settings,
        outbox: Outbox,
        handler: Callable[[dict[str, Any], Any], Any],
        *,
        begins: Callable[[], object],
    ) -> None:
        self._begins = begins
        self._package = package
        self._settings = settings
        self._outbox = outbox
        self._handler = handler
        self._late: set[str] = set()  # messages that the time did not suffice for
        self._scorer = Scorer(self._noted, max_batch=settings.max_batch, seconds=settings.batch_seconds)
        self._rows = collected_rows()

    @property
    def late(self) -> bool:
        """Whether the time did not suffice for all items that were scored last."""
        return bool(self._late)

    def _noted(self, event: dict[str, Any], context: object) -> Any:  # noqa: ANN401 - the handler's
        """Call the handler, and note for which messages the time did not suffice."""
        self._begins()
        # Its thread needs nothing of Python, whose lock a call of C may keep.
        faulthandler.dump_traceback_later(self._settings.batch_seconds * HUNG_BATCH, exit=True)
        try:
            done = self._handler(event, context)
        except LittleTimeError:
            self._late |= {message["message_id"] for message in event["messages"]}
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        self._late |= set(done["unfinished"])
        return done

    def of(self, items: Mapping[int, tuple[Record, bytes]]) -> tuple[list[Answer], dict[int, str], list[Record]]:
        """Score items.

        Parameters
        ----------
        items
            Records and bytes, by sequence.

        Returns
        -------
        tuple
            The answers. Why others cannot be scored, by sequence. Those that are not to blame, and come again.

        Raises
        ------
        OSError
            If bytes cannot be kept.
        """
        futures, ids, broken = {}, {}, {}
        self._late.clear()
        for sequence, (record, data) in items.items():
            message = self._message(record, data)
            try:
                ids[sequence] = Item.from_message(message).id
            except MalformedMessageError as error:
                broken[sequence] = reason_of(error)
            else:
                futures[sequence] = self._scorer.submit(message)
        self._scorer.stop()
        self._scorer.run()
        rows = self._rows.take()
        answers, again = [], []
        for sequence, future in futures.items():
            record, data = items[sequence]
            scored = future.result(0)
            if (row := rows.get(ids[sequence])) is not None:
                answers.append(self._answer(record, row, data))
            elif scored.outcome is not Outcome.RETRY:
                broken[sequence] = scored.reason
            elif str(sequence) in self._late:
                broken[sequence] = f"it was not scored within {self._settings.batch_seconds} s"
            else:
                again.append(record)
        return answers, broken, again

    def rejected(self, record: Record, reason: str) -> Answer:
        """Return the answer of an item that is not scored."""
        from inference_runtime.stages.rows import row  # noqa: PLC0415 - it imports numpy

        item = Item.from_message(self._message(record, b"-"))
        made = row(
            item,
            status="REJECTED",
            reason=reason,
            model_version=os.environ["MODEL_VERSION"],
            inference="none",
            recorded_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        return self._answer(record, made | {"size": {"N": str(record.size)}, "etag": {"S": record.digest}}, b"")

    def _message(self, record: Record, data: bytes) -> dict[str, Any]:
        """Return the message of an item, as `Item.from_message` reads it."""
        item = {
            "bucket": f"edge:{self._settings.device}",
            "id": record.key,
            "sequence": str(record.sequence),
            "time": record.event_time,
            "encoding": "base64",
        }
        return {"message_id": str(record.sequence), "item": item, "body": base64.b64encode(data).decode()}

    def _answer(self, record: Record, row: dict[str, Any], data: bytes) -> Answer:
        """Decide what becomes of an item that has a row."""
        clock = is_set()
        if self._package.row_version is not None:
            row = {**row, "version": {"S": f"null#{self._package.row_version}"}}
        if not clock:
            row = {**row, "clock": {"S": "not set"}}
        confidence, threshold = row.get("confidence"), self._package.threshold
        kind = "sure" if row["status"]["S"] == "SUCCEEDED" else "rejected"
        if threshold is not None and confidence is not None and float(confidence["N"]) < threshold:
            kind = "escalated"
        publish = self._settings.topic is not None and self._settings.topic.results is not None
        local = told(row, kind)
        text = json.dumps(
            {"row": row, "clock": clock, **({"told": local} if publish else {})}, default=_base64, ensure_ascii=False
        )
        if kind != "escalated":
            pending = None if self._settings.table is None else "row"
            return Answer(record, text, local, kind, pending, None, 0, publish)
        spool, size = record.spool, record.spool_bytes
        if spool is None:
            spool, size = self._outbox.keep_bytes(record, data)
        return Answer(record, text, local, kind, "object", spool, size, publish)


def _base64(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} is not JSON")
