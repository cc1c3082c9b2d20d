"""Models of several graphs, run by the drivers of the functions themselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cdk_inference.model.building.evaluation.data import digest_batches
from cdk_inference.model.building.evaluation.session import open_session
from cdk_inference.model.files import packed
from cdk_inference.model.files.weights import parts
from inference_runtime.engine.drivers.open_driver import make_driver
from inference_runtime.engine.onnxruntime_package import PackageSession
from inference_runtime.tensors.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import onnxruntime as ort

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.files.weights import Model
    from inference_runtime.engine.interfaces import Session

RECORDED = 4
"""Calls of each graph, at most, that are kept of a run."""


class Driven:
    """A driver over sessions of graphs, which is used as a session of onnxruntime is.

    Parameters
    ----------
    description
        The content of ``driver.json``.
    sessions
        The session of each graph, by name.
    """

    def __init__(self, description: Mapping[str, Any], sessions: Mapping[str, Session]) -> None:
        self._driver = make_driver(description, sessions)

    @classmethod
    def of_sessions(cls, description: Mapping[str, Any], sessions: Mapping[str, ort.InferenceSession]) -> Driven:
        """Return a driver over sessions of onnxruntime."""
        return cls(description, {name: PackageSession(session) for name, session in sessions.items()})

    @classmethod
    def of_file(cls, driver: Path, open_graph: Callable[[Path], ort.InferenceSession]) -> Driven:
        """Return a driver over the graphs that lie next to its ``driver.json``."""
        description = json.loads(driver.read_text("utf-8"))
        sessions = {name: open_graph(driver.with_name(f"{name}.onnx")) for name in packed.names(description)}
        return cls.of_sessions(description, sessions)

    def run(self, names: Sequence[str] | None, batch: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
        """Return outputs by name, or all of them, for a batch."""
        outputs = self._driver.run({name: Tensor.of(array) for name, array in batch.items()})
        found = {value.name: output for value, output in zip(self._driver.outputs, outputs, strict=True)}
        return [found[name].array() for name in names or found]


class Recording:
    """A session that keeps some of what it is asked, spread over the run: calls 1, 2, 4, 8 and so on, the latest ones.

    Parameters
    ----------
    session
        The session that answers.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._calls = 0
        self.inputs, self.outputs = session.inputs, session.outputs
        self.deadline = session.deadline
        self.kept: list[Batch] = []
        """The inputs of the calls that were kept."""

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Answer, and keep the inputs."""
        self._calls += 1
        if self._calls & (self._calls - 1) == 0:
            first = self.kept[:1]
            latest = [*self.kept[1:], {name: tensor.array() for name, tensor in inputs.items()}]
            self.kept = [*first, *latest[-RECORDED + 1 :]] if first else latest
        return self._session.run(inputs)

    def restart(self) -> list[Batch]:
        """Return what was kept, and begin anew."""
        kept, self.kept, self._calls = self.kept, [], 0
        return kept

    def close(self) -> None:
        """Close the session."""
        self._session.close()


class Recorded:
    """Knows what each graph of a float model is asked while the model runs.

    Parameters
    ----------
    model
        The model.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[str, dict[str, list[Batch]]] = {}

    def calls(self, batches: Sequence[Batch]) -> dict[str, list[Batch]]:
        """Return some of the inputs of each graph, by name, over batches of the model's inputs."""
        digest = digest_batches(batches)
        if digest not in self._known:
            description, graphs = parts(self._model)
            sessions = {name: Recording(PackageSession(open_session(graph))) for name, graph in graphs.items()}
            self._known[digest] = record(Driven(description, sessions), sessions, batches)
        return self._known[digest]


def record(model: Driven, sessions: Mapping[str, Recording], batches: Sequence[Batch]) -> dict[str, list[Batch]]:
    """Run a model on batches, and return some of the inputs of each graph, by name."""
    found: dict[str, list[Batch]] = {name: [] for name in sessions}
    for batch in batches:
        model.run(None, batch)
        for name, session in sessions.items():
            found[name] += session.restart()
    return found
