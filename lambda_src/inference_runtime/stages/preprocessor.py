"""Reads objects and turns them into model inputs: what the preprocessing function does, and a fused one too."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from threading import Event, Timer
from typing import TYPE_CHECKING, Any

from inference_runtime.environment import json_variable
from inference_runtime.errors import MalformedMessageError, RejectItem, RetryableError, reason_of
from inference_runtime.stages.deadline import TimeBudget
from inference_runtime.stages.inputs import InputSpec, check_returned, kept_names
from inference_runtime.stages.item import Item, message_id_of
from inference_runtime.stages.sources import Content, SourceTimeoutError, SupersededError, UnreadableError
from inference_runtime.stages.time_limit import NotReadyError, TookTooLongError, call_within
from inference_runtime.stages.user_code import load_stage
from inference_runtime.timeouts import MAX_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from concurrent.futures import Future

    from inference_runtime.stages.deadline import Deadline
    from inference_runtime.stages.isolation import Isolation
    from inference_runtime.stages.sources import ObjectSource
    from inference_runtime.tensors.tensor import Array

_ALONE = 0.9
"""Share of an invocation's time that preprocessing gets at most: all that follows needs the rest."""

_AHEAD_ISOLATED = 2
"""Objects that are read ahead of isolated items, whose process needs the memory."""

_log = logging.getLogger(__name__)


@dataclass
class Batch:
    """The state of a batch of messages so far.

    Attributes
    ----------
    items
        Those that get a row.
    rejected
        `[{"index", "reason"}]`; indices point into `items`.
    retry
        Ids of messages to give back to the queue, because a service was unavailable: the items are not at fault.
    failed
        `[{"message_id", "error", "cause"}]`: messages that made preprocessing fail, and an error's name and text.
    unfinished
        Ids of messages that were not begun, or not given enough time, because the invocation's time ran low.
    asked
        Indices of the items whose objects ask for an explanation, if explanations are made on request. An item that
        came back, and is isolated, gets none: it may be what killed its invocation.
    """

    items: list[Item] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    retry: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    asked: set[int] = field(default_factory=set)

    def fail(self, message_id: str, error: Exception) -> None:
        """Note that a message made preprocessing fail, and how."""
        name, cause = getattr(error, "error", type(error).__name__), getattr(error, "cause", reason_of(error))
        self.failed.append({"message_id": message_id, "error": name, "cause": cause})


class Preprocessor:
    """Reads objects and turns them into model inputs.

    Parameters
    ----------
    source
        Where objects are read.
    function
        The user's: `function(data, item) -> array`, or a dict of arrays and of what it keeps.
    inputs
        The inputs that the model expects.
    max_bytes
        Larger objects are rejected before they are read.
    prefix
        The beginning of the names of the user code's variables, for the process that loads it for isolated items.
    keep
        The names of the values that the function returns for postprocessing and the row.
    on_request
        Whether objects may ask for an explanation, by their metadata.
    """

    def __init__(
        self,
        *,
        source: ObjectSource,
        function: Callable[[bytes, Item], object],
        inputs: Sequence[InputSpec],
        max_bytes: int,
        prefix: str,
        keep: Sequence[str] = (),
        on_request: bool = False,
    ) -> None:
        self._keep = keep
        self._on_request = on_request
        self._source = source
        self._prefix = prefix
        self._function = function
        self._inputs = inputs
        self._max_bytes = max_bytes

    @classmethod
    def from_environment(cls, source: ObjectSource, prefix: str = "STAGE") -> Preprocessor:
        """Return what the function's environment describes.

        Parameters
        ----------
        source
            Where objects are read.
        prefix
            The beginning of the names of the user code's variables, see `load_stage`.

        Raises
        ------
        StageError
            If it is configured wrongly.
        """
        return cls(
            source=source,
            inputs=[InputSpec.from_json(spec) for spec in json_variable("MODEL_INPUTS", list)],
            max_bytes=int(os.environ.get("MAX_OBJECT_BYTES", str(64 * 1024 * 1024))),
            function=load_stage(prefix),
            prefix=prefix,
            keep=kept_names(),
            on_request=os.environ.get("EXPLAIN") == "on_request",
        )

    def inputs(
        self,
        messages: object,
        batch: Batch,
        *,
        deadline: Deadline | None = None,
        share: float = _ALONE,
        isolate: bool = False,
    ) -> Generator[tuple[int, dict[str, Array]]]:
        """Yield index and inputs of each item that can be scored, as they are ready.

        Parameters
        ----------
        messages
            As those of the preprocessing function's event.
        batch
            Is filled meanwhile: complete when all is yielded. A message that is then neither in it nor yielded is
            done: a duplicate, or superseded by a newer object.
        deadline
            The deadline of the invocation. Without one, items may take any time.
        share
            The share of the time until then that several items may take.
        isolate
            Whether to preprocess the items in another process: one that kills it, or does not end in time, then fails
            by itself.

        Raises
        ------
        RetryableError
            If messages cannot be told apart, or the process for isolated items does not start.
        """
        items = _parse(messages, batch)
        seconds = deadline.left() if deadline is not None else math.inf
        budget = TimeBudget(seconds * (share if len(items) > 1 else _ALONE), len(items))
        with ExitStack() as stack:
            reads = stack.enter_context(closing(self._read_ahead(items, budget, isolate=isolate)))
            isolation = stack.enter_context(closing(self._isolation(budget))) if isolate else None
            watch = stack.enter_context(closing(_Watch(seconds)))
            for number, (item, read) in enumerate(reads):
                if number and budget.over():
                    batch.unfinished.extend(each.message_id for each in items[number:])
                    _log.warning("the invocation's time runs low: %s items are not begun", len(items) - number)
                    return
                watch.item = item
                found = self._inputs_of(item, read, batch, budget, isolation)
                watch.item = None
                if found is not None:
                    inputs, kept = found
                    batch.items.append(replace(item, kept=kept) if kept else item)
                    yield len(batch.items) - 1, inputs

    def _inputs_of(
        self, item: Item, read: Future[Content], batch: Batch, budget: TimeBudget, isolation: Isolation | None
    ) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """Return an item's inputs and the values to keep, or note in the batch why there are none."""
        where = f"{item.location}, item {item.id}, message {item.message_id}"
        seconds = budget.item_timeout()
        try:
            data, asked = _result(read, budget)
            seconds = budget.item_timeout()
            if isolation is not None:
                isolation.start()  # whose time is not the item's
                seconds = budget.item_timeout()
                return isolation.inputs(data, item, seconds)
            found = call_within(seconds, lambda: check_returned(self._function(data, item), self._inputs, self._keep))
            if asked:
                batch.asked.add(len(batch.items))
            return found  # noqa: TRY300 - what fails has no index
        except SupersededError:
            _log.info("superseded by a newer object: %s", item.location)
        except RejectItem as error:
            batch.rejected.append({"index": len(batch.items), "reason": reason_of(error)})
            batch.items.append(item)
        except UnreadableError as error:
            _log.error("cannot read %s: %s", where, error)
            batch.retry.append(item.message_id)
        except TookTooLongError as error:
            if budget.is_fair(seconds):
                _log.error("preprocessing failed: %s: it %s", where, error)
                batch.fail(item.message_id, error)
            else:
                _log.warning("preprocessing was not finished: %s: it %s, which was all that was left", where, error)
                batch.unfinished.append(item.message_id)
        except NotReadyError as error:
            _log.warning("preprocessing was not begun: %s: %s", where, error)
            batch.unfinished.append(item.message_id)
        except Exception as error:
            # An error of another process has its traceback in the text.
            _log.error("preprocessing failed: %s: %s", where, error, exc_info=isolation is None)
            batch.fail(item.message_id, error)
        return None

    def _isolation(self, budget: TimeBudget) -> Isolation:
        # Hardly ever needed, so it is not imported in a cold start.
        from inference_runtime.stages.isolation import Isolation  # noqa: PLC0415

        isolation = Isolation(self._prefix, budget.left)
        try:
            isolation.start()
        except NotReadyError as error:
            raise RetryableError(str(error)) from error
        return isolation

    def _read_ahead(
        self, items: list[Item], budget: TimeBudget, *, isolate: bool
    ) -> Generator[tuple[Item, Future[Content]]]:
        """Yield each item and its object, which is being read; at most `MAX_CONNECTIONS` are in memory."""
        hanging = Event()
        most = _AHEAD_ISOLATED if isolate else MAX_CONNECTIONS
        pool = ThreadPoolExecutor(most)
        try:
            waiting: deque[tuple[Item, Future[Content]]] = deque()
            for item in items:
                waiting.append((item, pool.submit(self._read, item, hanging)))
                if len(waiting) == most:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            # Objects that are being read belong to this invocation, unless its time is over.
            pool.shutdown(wait=not budget.over(), cancel_futures=True)

    def _read(self, item: Item, hanging: Event) -> Content:
        if item.range is not None:
            item.range.check()
        if item.size == 0:
            raise RejectItem("object is empty")
        if item.size > self._max_bytes:
            raise RejectItem(f"object has {item.size:,} bytes, at most {self._max_bytes:,} are read")
        if item.payload is not None:
            return Content(item.payload)
        if hanging.is_set():
            raise UnreadableError("S3 did not answer to an earlier request of the batch")
        try:
            data, asked = self._source.read(item)
        except SourceTimeoutError:
            hanging.set()
            raise
        return Content(data, asked and self._on_request)


class _Watch:
    """Logs which item is being preprocessed when an invocation's time is over; nothing else would say so.

    A thread can do so unless a call of C keeps Python's lock. Then the item is found when it comes again, isolated.

    Parameters
    ----------
    seconds
        Until then; infinite for never.
    """

    def __init__(self, seconds: float) -> None:
        self.item: Item | None = None
        self._timer = None
        if math.isfinite(seconds):
            self._timer = Timer(max(seconds, 0), self._log)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Log nothing from now on."""
        if self._timer is not None:
            self._timer.cancel()

    def _log(self) -> None:
        if (item := self.item) is not None:
            text = "still preprocessing %s, item %s, message %s: the invocation's time is nearly over"
            _log.error(text, item.location, item.id, item.message_id)


def _result(read: Future[Content], budget: TimeBudget) -> Content:
    """Wait for an object, and return what it holds."""
    left = budget.left()
    try:
        return read.result(left if math.isfinite(left) else None)
    except TimeoutError as error:
        raise UnreadableError(f"S3 did not answer within {left:.1f} s") from error


def _parse(messages: object, batch: Batch) -> list[Item]:
    """Return the distinct items that messages describe; a message that describes none is noted as failed."""
    if not isinstance(messages, list):
        raise RetryableError(f"messages is {type(messages).__name__}, expected a list")
    items: dict[str, Item] = {}
    for message in messages:
        message_id = message_id_of(message)
        if message_id is None:
            # Nothing else could be given back to the queue one by one, and what is not given back is lost.
            raise RetryableError(f"a message has no message_id: {json.dumps(message):.500}")
        try:
            item = Item.from_message(message)
        except MalformedMessageError as error:
            _log.error("malformed message %s: %s", message_id, error)
            batch.fail(message_id, error)
        else:
            items.setdefault(item.id, item)
    return list(items.values())
