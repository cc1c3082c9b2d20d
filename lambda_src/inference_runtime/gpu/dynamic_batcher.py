"""Dynamic batching: what several threads ask for at about the same time runs as one batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from inference_runtime.tensors.tensor import concatenate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference_runtime.engine.engine import LocalEngine
    from inference_runtime.tensors.tensor import Tensor

    Outputs = dict[str, Tensor]

T = TypeVar("T")

MAX_QUEUE_DELAY = 0.005
"""Seconds that a request waits for others to join it: little compared with the transfer of a batch's tensors."""


@dataclass(eq=False)
class _Request:
    inputs: Mapping[str, Tensor]
    run: Callable[[LocalEngine], Any] | None
    since: float = field(default_factory=time.monotonic)
    outcome: Future[Any] = field(default_factory=Future)

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    def joins(self, other: _Request) -> bool:
        """Tell whether the two make one batch: items of the same shapes and types."""
        return self.run is other.run is None and self._items == other._items

    @property
    def _items(self) -> list[tuple[str, str, tuple[int, ...]]]:
        return sorted((name, tensor.dtype, tensor.shape[1:]) for name, tensor in self.inputs.items())


class DynamicBatcher:
    """An engine for several threads.

    One thread runs the model on the requests in the queue: while a batch runs, the next one forms. Requests are taken
    in order; those of other shapes wait for their turn. If a joint batch fails, each request is run by
    itself, so that it fails for its own sake only.

    Parameters
    ----------
    engine
        Runs the batches.
    max_queue_delay
        Seconds that the first request of a batch waits for others. Default: `MAX_QUEUE_DELAY`.
    callers
        Returns how many callers there are: once all of them wait, the batch runs at once. Default: not known.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        max_queue_delay: float = MAX_QUEUE_DELAY,
        callers: Callable[[], int] | None = None,
    ) -> None:
        self._engine = engine
        self._max_queue_delay = max_queue_delay
        self._callers = callers
        self.inference = engine.inference
        self.output_names = engine.output_names
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._since: float | None = None
        threading.Thread(target=self._work, name="model", daemon=True).start()

    def start_deadline(self, seconds: float = inf) -> None:
        """Do nothing: whoever has the process watches `running_seconds`."""

    def warm_up(self) -> None:
        """Run the model on an item of zeros, see `LocalEngine.warm_up`."""
        self.run_exclusively(lambda engine: engine.warm_up())

    def infer(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Return the model's outputs by name, with as many items as the inputs have; wait for them.

        Raises what `LocalEngine.infer` does.
        """
        self._engine.check(inputs)
        outputs: Outputs = self._wait_for(_Request(inputs, None))
        return outputs

    def run_exclusively(self, run: Callable[[LocalEngine], T]) -> T:
        """Call a function when its turn comes, while nothing else runs, and return what it returns."""
        result: T = self._wait_for(_Request({}, run))
        return result

    def _wait_for(self, request: _Request) -> Any:  # noqa: ANN401 - the callers know
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()
        return request.outcome.result()

    @property
    def broken(self) -> bool:
        """Whether this process cannot use the GPU any more."""
        return self._engine.broken

    @property
    def running_seconds(self) -> float:
        """For how long the model has been running on what it runs on now; 0 if on nothing."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _work(self) -> None:
        while True:
            self._since = None
            batch = self._next()
            self._since = time.monotonic()
            if len(batch) == 1 or not self._run_joint(batch):
                for request in batch:
                    self._since = time.monotonic()
                    self._run_alone(request)

    def _run_joint(self, batch: list[_Request]) -> bool:
        """Run requests as one batch; say whether they are done with."""
        try:
            joint = {name: concatenate([r.inputs[name] for r in batch]) for name in batch[0].inputs}
            outputs = self._engine.infer(joint)
        except BaseException as error:  # whatever it is, those who wait are told
            if self.broken:
                for request in batch:
                    request.outcome.set_exception(error)
            return self.broken
        start = 0
        for request in batch:
            stop = start + request.count
            request.outcome.set_result({name: tensor.rows(start, stop) for name, tensor in outputs.items()})
            start = stop
        return True

    def _run_alone(self, request: _Request) -> None:
        try:
            run = request.run
            request.outcome.set_result(self._engine.infer(request.inputs) if run is None else run(self._engine))
        except BaseException as error:
            request.outcome.set_exception(error)

    def _next(self) -> list[_Request]:
        """Wait for requests, and take those that make the next batch."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            first = self._waiting[0]
            if first.run is not None:
                return [self._waiting.popleft()]
            limit = self._engine.limit(first.inputs)
            while (left := first.since + self._max_queue_delay - time.monotonic()) > 0:
                if self._callers is not None and len(self._waiting) >= self._callers():
                    break
                joining = [r for r in self._waiting if r is first or r.joins(first)]
                if limit is not None and sum(r.count for r in joining) >= limit:
                    break
                self._changed.wait(left)
            batch: list[_Request] = []
            total = 0
            for request in list(self._waiting):
                if batch and not request.joins(first):
                    continue
                if batch and limit is not None and total + request.count > limit:
                    break
                batch.append(request)
                total += request.count
                self._waiting.remove(request)
            return batch
