"""onnxruntime sessions on the CPU."""

from __future__ import annotations

import contextlib
import platform
from typing import TYPE_CHECKING, Any, Protocol

import onnxruntime as ort

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from cdk_inference.model.files.weights import Model

_SATURATING = ("x86_64", "amd64")
_MARKS = (b"Integer", b"Linear", b"DynamicQuantize", b"QAttention", b"QGemm")  # in names of operators of 8 bits


FUSED = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
AS_WRITTEN = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


class Opened(Protocol):
    """A model that can be run: one graph, or several behind their driver."""

    def run(self, names: Sequence[str] | None, batch: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
        """Return outputs by name, or all of them, for a batch."""
        ...


def open_session(
    model: Model, *, exact: bool = True, level: ort.GraphOptimizationLevel = FUSED
) -> ort.InferenceSession:
    """Return a session of a graph on one CPU thread.

    Parameters
    ----------
    model
        Its bytes, or its path if its weights lie next to it.
    exact
        Add int8 products in 32 bits on every CPU: x86_64 without VNNI saturates 16-bit sums of U8S8 products unless
        their weights are unsigned. This costs speed, so timings are taken without it. Products of signed activations
        cannot be made exact.
    level
        Which of onnxruntime's fusions are applied; by default all, as in a function.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # A float model is not even parsed: that would take its size once more.
    content = model if isinstance(model, bytes) else model.read_bytes()
    if exact and platform.machine().lower() in _SATURATING and any(mark in content for mark in _MARKS):
        # For this alone: a process that only asks models starts without onnx.
        from cdk_inference.model.building.graph import aside  # noqa: PLC0415
        from cdk_inference.model.building.graph.saturation import saturating, unsigned  # noqa: PLC0415

        graph = aside.parsed(model)
        if saturating(graph):
            # ONNX Runtime does the same with weights in QDQ form, and refuses the other operators with signed ones.
            options.add_session_config_entry("session.x64quantprecision", "1")
            with contextlib.suppress(Exception):  # it has no error class for operators that it refuses
                changed = model if aside.is_aside(graph) else unsigned(graph).SerializeToString()
                return ort.InferenceSession(changed, options, providers=["CPUExecutionProvider"])
            return open_session(model, exact=False, level=level)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
