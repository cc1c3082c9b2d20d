"""What runs the model: a session in this process, or another process that has it."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Protocol

import numpy as np

from inference_runtime.batches import Batches
from inference_runtime.errors import OutOfMemoryError, RetryableError, StageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference_runtime.tensors import Array

MAX_BATCH_ON_CPU = 16
"""Most items in one run of the model: more gains little on a CPU, and activations take memory."""

LAST_WORDS = 0.5
"""Seconds that a process whose GPU failed has left, so that those who wait get their answers."""

_NUMPY_TYPES = {"float": "float32", "double": "float64"}  # where ONNX Runtime's names are not numpy's

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """Runs the function's model.

    Attributes
    ----------
    inference
        Where: `cpu` or `gpu`.
    output_names
        Of the model.
    """

    inference: str
    output_names: list[str]

    def begin(self) -> None:
        """Let the time of an invocation count from here, if there is a limit."""
        ...

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the model's outputs by name, with as many items as the inputs have."""
        ...


def open_engine() -> Engine:
    """Return what runs the model of this function.

    On Managed Instances (`GPU_CONCURRENCY` is set) one process has the model for all: each concurrent invocation has a
    process of its own there, and their parent imports the handler too, so that each would take its copy of the card's
    memory. A process that was forked after it used CUDA could not use it at all.
    """
    if os.environ.get("GPU_CONCURRENCY"):
        from inference_runtime.shared import SharedEngine  # noqa: PLC0415 - no other function needs it

        return SharedEngine()
    return LocalEngine()


class LocalEngine:
    """Runs the model in this process.

    Attributes
    ----------
    broken
        Whether this process cannot use the GPU any more. It ends by itself then: what comes next gets another one.
    """

    def __init__(self) -> None:
        from inference_runtime.session import open_session  # noqa: PLC0415 - imports ONNX Runtime

        self.broken = False
        self.session, self.inference = open_session()
        inputs = self.session.get_inputs()
        types = {i.name: i.type.removeprefix("tensor(").removesuffix(")") for i in inputs}
        self._dtypes = {name: _NUMPY_TYPES.get(kind, kind) for name, kind in types.items()}
        self.output_names: list[str] = [output.name for output in self.session.get_outputs()]
        most = int(os.environ.get("MAX_BATCH", "0")) or (MAX_BATCH_ON_CPU if self.inference == "cpu" else None)
        # A model exported for a fixed batch gets exactly that many items.
        fixed = next((i.shape[0] for i in inputs if i.shape and isinstance(i.shape[0], int)), None)
        self._batches = Batches(self._run, self.output_names, most=most, fixed=fixed)

    def begin(self) -> None:
        """Do nothing: what runs in this process cannot be given up but with it."""

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
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

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Raise a `StageError` if the inputs are not the model's."""
        dtypes = {name: array.dtype.name for name, array in inputs.items()}
        if dtypes != self._dtypes:
            raise StageError(f"inputs are {dtypes}, the model expects {self._dtypes}")
        counts = {name: len(array) if array.ndim else 0 for name, array in inputs.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise StageError(f"inputs have {counts} items, expected the same number of each, and one at least")

    def limit(self, inputs: Mapping[str, Array]) -> int | None:
        """Return most items in one run of items like these, as far as known."""
        return self._batches.limit(inputs)

    def _run(self, chunk: Mapping[str, Array], count: int) -> list[Array]:
        if self.broken:
            raise RetryableError("the GPU failed before; this process ends")
        try:
            outputs: list[Array] = self.session.run(self.output_names, dict(chunk))
        except Exception as error:
            from inference_runtime.card import trouble  # noqa: PLC0415 - hardly ever needed

            if (kind := trouble(error)) is None:
                raise
            if kind is not OutOfMemoryError:
                self._give_up(error)
            raise kind(str(error)) from error
        for name, output in zip(self.output_names, outputs, strict=True):
            if np.ndim(output) == 0 or len(output) != count:
                raise StageError(
                    f"model output {name!r} has shape {np.shape(output)}, expected a batch of {count} first"
                )
        return outputs

    def _give_up(self, error: Exception) -> None:
        # CUDA fails in this process from now on, whatever it is asked for, and nothing can reset it.
        self.broken = True
        _log.critical("the GPU failed, this process ends: %s", error)
        timer = threading.Timer(LAST_WORDS, os._exit, [1])
        timer.daemon = True
        timer.start()
