"""Chooses what runs the model: a session in this process, or another process that has it."""

from __future__ import annotations

import os

from inference_runtime.engine.engine import LocalEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from inference_runtime.engine.interfaces import Engine


def open_engine() -> Engine:
    """Return what runs the model of this function.

    On Managed Instances (`GPU_CONCURRENCY` is set) one process has the model for all: each concurrent invocation has a
    separate process there. Their parent imports the handler too, so that each would take its copy of the card's memory.
    A process that was forked after it used CUDA could not use it at all.
    """
    if os.environ.get("GPU_CONCURRENCY"):
        from inference_runtime.gpu.model_client import ModelClient  # noqa: PLC0415 - no other function needs it

        return ModelClient()
    return LocalEngine()
