"""onnxruntime sessions on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime as ort

if TYPE_CHECKING:
    from pathlib import Path


def open_session(model: bytes, *, exact: bool = True) -> ort.InferenceSession:
    """Return a session on one CPU thread.

    Parameters
    ----------
    exact
        Compute int8 products the same on every CPU: x86 without VNNI saturates 16-bit sums of U8S8 products
        unless told not to. This costs speed, so timings are taken without it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime cannot do so with weights that were quantized in its operator format
            return open_session(model, exact=False)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def open_file(model: Path, threads: int) -> ort.InferenceSession:
    """Return a session of a model by its path, as a deployed function opens it; its weights may lie beside it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
