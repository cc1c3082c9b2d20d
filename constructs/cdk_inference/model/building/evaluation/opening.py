"""Opens models to run them: one graph, or several behind their driver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime as ort

from cdk_inference.model.building.evaluation.session import FUSED, open_session
from cdk_inference.model.files.packed import DRIVER, is_packed
from cdk_inference.model.files.weights import parts

if TYPE_CHECKING:
    from cdk_inference.model.building.evaluation.session import Opened
    from cdk_inference.model.files.weights import Model


def open_model(model: Model, *, exact: bool = True, level: ort.GraphOptimizationLevel = FUSED) -> Opened:
    """Return a session of a model, of one graph or several; see `open_session`."""
    if model.name != DRIVER if isinstance(model, Path) else not is_packed(model):
        opened: Opened = open_session(model, exact=exact, level=level)
        return opened
    from cdk_inference.model.building.evaluation.driven import Driven  # noqa: PLC0415 - most models have one graph

    description, graphs = parts(model)
    sessions = {name: open_session(graph, exact=exact, level=level) for name, graph in graphs.items()}
    return Driven.of_sessions(description, sessions)


def open_file(model: Path, threads: int) -> Opened:
    """Return a session of a model by its path, as a deployed function opens it; its weights may lie next to it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1

    def open_graph(path: Path) -> ort.InferenceSession:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    if model.name != DRIVER:
        opened: Opened = open_graph(model)
        return opened
    from cdk_inference.model.building.evaluation.driven import Driven  # noqa: PLC0415 - most models have one graph

    return Driven.of_file(model, open_graph)
