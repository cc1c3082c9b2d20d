"""Runs batches through the session of this process."""

from __future__ import annotations

import logging
import os
import threading
import time
from math import inf

from inference_runtime.engine.batches import Batches
from inference_runtime.errors import OutOfMemoryError, RetryableError, StageError
from inference_runtime.tensors.tensor import zeros

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from inference_runtime.engine.drivers.search import Hypothesis
    from inference_runtime.engine.interfaces import TextEnds
    from inference_runtime.tensors.tensor import Tensor

MAX_BATCH_ON_CPU = 16
"""Most items in one run of the model: more gains little on a CPU, and activations take memory."""

EXIT_DELAY = 0.5
"""Seconds that a process whose GPU failed has left, so that those who wait get their answers."""


_log = logging.getLogger(__name__)


def _max_batch() -> int:
    text = os.environ.get("MAX_BATCH", "0")
    if not (text.isascii() and text.isdecimal()):
        raise StageError(f"MAX_BATCH is {text!a:.100}, expected a whole number from 1, or 0 for the default")
    return int(text)


class LocalEngine:
    """Runs the model in this process.

    Attributes
    ----------
    broken
        Whether this process cannot use the GPU any more. It ends by itself then: what comes next gets another one.

    Raises
    ------
    StageError
        If the function is configured wrongly.
    Exception
        Any error of `open_session`.
    """

    def __init__(self) -> None:
        from inference_runtime.engine.open_session import open_session  # noqa: PLC0415 - not for who shares the model

        self.broken = False
        self.session, self.inference = open_session()
        inputs = self.session.inputs
        self._dtypes = {value.name: value.dtype for value in inputs}
        self.output_names = [value.name for value in self.session.outputs]
        most = _max_batch() or (MAX_BATCH_ON_CPU if self.inference == "cpu" else None)
        # A model exported for a fixed batch gets exactly that many items.
        fixed = next((i.shape[0] for i in inputs if i.shape and isinstance(i.shape[0], int)), None)
        self._batches = Batches(self._run, self.output_names, max_batch_size=most, fixed_batch_size=fixed)

    def start_deadline(self, seconds: float = inf) -> None:
        """Let a model of several steps give up after these seconds. A single step cannot be given up."""
        self.session.deadline = time.monotonic() + seconds

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's outputs by name, with as many items as the inputs have.

        Raises
        ------
        StageError
            If the inputs are not the model's, or an output has no batch axis.
        OutOfMemoryError
            If a single item does not fit the memory.
        KernelFaultError
            If a computation failed on the GPU.
        RetryableError
            If the GPU failed.
        """
        self.check(inputs)
        return self._batches.run(inputs)

    def runs(
        self, inputs: Mapping[str, Tensor], text_ends: Sequence[TextEnds | None] = ()
    ) -> Iterator[dict[str, Tensor]]:
        """Yield what `infer` returns in parts, in order, as the model runs on them.

        Parameters
        ----------
        inputs
            The model's inputs.
        text_ends
            The end of the text that the model writes for each item; only a `Search` has a use for it.

        Raises
        ------
        Exception
            Any error of `infer`.
        """
        self.check(inputs)
        if not any(text_ends) or not hasattr(self.session, "text_ends"):
            yield from self._batches.runs(inputs)
            return
        try:
            self.session.text_ends = text_ends
            for outputs in self._batches.runs(inputs):
                text_ends = text_ends[len(outputs[self.output_names[0]]) :]
                yield outputs
                self.session.text_ends = text_ends
        finally:
            self.session.text_ends = ()

    def stream(self, inputs: Mapping[str, Tensor]) -> Iterator[Hypothesis]:
        """Yield the answer to a single item so far, after each step of a model that writes.

        Raises
        ------
        StageError
            If the model does not write, or `Search.stream` refuses to.
        Exception
            Any error of `Search.stream`.
        """
        self.check(inputs)
        stream = getattr(self.session, "stream", None)
        if stream is None:
            raise StageError(
                "the model must write one token after the other to be streamed: give it the driver Greedy or Sampling"
            )
        yield from stream(inputs)

    def warm_up(self) -> None:
        """Run the model on an item of zeros, whose free dimensions are 1: it reads pages and allocates memory."""
        shapes = {value.name: [n if isinstance(n, int) else 1 for n in value.shape] for value in self.session.inputs}
        self.infer({name: zeros(self._dtypes[name], shape) for name, shape in shapes.items()})

    def check(self, inputs: Mapping[str, Tensor]) -> None:
        """Raise a `StageError` if the inputs are not the model's."""
        dtypes = {name: tensor.dtype for name, tensor in inputs.items()}
        if dtypes != self._dtypes:
            raise StageError(f"inputs are {dtypes}, the model expects {self._dtypes}")
        shapes = {name: list(tensor.shape) for name, tensor in inputs.items()}
        if [] in shapes.values() or len({shape[0] for shape in shapes.values()}) != 1:
            raise StageError(f"inputs have the shapes {shapes}, expected the same number of items first in each")

    def limit(self, inputs: Mapping[str, Tensor]) -> int | None:
        """Return the most items like these that one run takes, or None if that is not known."""
        return self._batches.limit(inputs)

    def _run(self, chunk: Mapping[str, Tensor], count: int) -> list[Tensor]:
        if self.broken:
            raise RetryableError("the GPU failed before; this process ends")
        try:
            outputs = self.session.run(chunk)
        except Exception as error:
            from inference_runtime.engine.cuda_errors import error_class  # noqa: PLC0415 - hardly ever needed

            if (kind := error_class(error)) is None:
                raise
            if kind is not OutOfMemoryError:
                self._give_up(error)
            raise kind(str(error)) from error
        for name, output in zip(self.output_names, outputs, strict=True):
            if not output.shape or len(output) != count:
                raise StageError(f"model output {name!r} has shape {output.shape}, expected a batch of {count} first")
        return outputs

    def _give_up(self, error: Exception) -> None:
        # CUDA fails in this process from now on, whatever it is asked for, and nothing can reset it.
        self.broken = True
        _log.critical("the GPU failed, this process ends: %s", error)
        timer = threading.Timer(EXIT_DELAY, os._exit, [1])
        timer.daemon = True
        timer.start()
