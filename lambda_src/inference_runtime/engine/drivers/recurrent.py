"""Carries the state of a graph over the parts of a long input, such as the windows of a recording."""

from __future__ import annotations

from math import prod

from inference_runtime.engine.drivers.graphs import Graphs
from inference_runtime.engine.session import TensorInfo
from inference_runtime.errors import StageError
from inference_runtime.tensors.tensor import ITEM_SIZES, Tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from inference_runtime.engine.interfaces import Session

_COUNTED = 2  # axes: items and places


class Recurrent:
    """Runs a graph on one part of an input after the other; a session of one graph or several.

    Parts are cut along the second axis. The last one is filled up with zeros. Each output is collected in one of three
    ways. `each` gives those of all parts along a new second axis. `joined` puts them together along their second axis.
    `last` is that of the last part.

    Parameters
    ----------
    description
        That of `Graphs`, with more members. `over` is the input that is cut, and `chunk` the places of a part.
        `context` is how many places before its part the graph sees again; at the beginning, they are zeros. `outputs`
        says by name how they are collected.
    sessions
        The session of each graph, by name.
    """

    def __init__(self, description: Mapping[str, Any], sessions: Mapping[str, Session]) -> None:
        self._graphs = Graphs(description, sessions, ())
        self._over: str = description["over"]
        self._chunk: int = description["chunk"]
        self._context: int = description["context"]
        self._collected: dict[str, str] = description["outputs"]
        self.inputs = [_uncut(value) if value.name == self._over else value for value in self._graphs.inputs]
        given = {value.name: value for value in self._graphs.step.outputs}
        self.outputs = [_collected(given[name], how) for name, how in self._collected.items()]

    @property
    def deadline(self) -> float:
        """The time, as `time.monotonic` has it, after which no step begins."""
        return self._graphs.deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._graphs.deadline = value

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the outputs in order.

        Raises
        ------
        StageError
            If the input that is cut is empty.
        LittleTimeError
            If the time is over before the last part.
        Exception
            Any error of a graph's session.
        """
        whole = inputs[self._over]
        count, places = whole.shape[:_COUNTED]
        if not places:
            raise StageError(f"input {self._over!r} must have one place or more, got {whole}")
        feed = self._graphs.begin(self._graphs.values(inputs), count)
        collected: dict[str, list[Tensor]] = {name: [] for name in self._collected}
        for start in range(0, places, self._chunk):
            feed.constants[self._over] = _part(whole, start - self._context, start + self._chunk)
            outputs = self._graphs.run_step(feed, {})
            for name, parts in collected.items():
                if self._collected[name] == "last":
                    parts.clear()
                parts.append(outputs[name])
        return [_together(parts, self._collected[name]) for name, parts in collected.items()]

    def close(self) -> None:
        """Close the sessions of all graphs."""
        self._graphs.close()


def _part(whole: Tensor, start: int, stop: int) -> Tensor:
    """Return places of all items, with zeros where there are none."""
    count, places = whole.shape[:_COUNTED]
    place = prod(whole.shape[2:]) * ITEM_SIZES[whole.dtype]
    before, after = bytes(max(0, -start) * place), bytes(max(0, stop - places) * place)
    view = memoryview(whole.data)  # type: ignore[arg-type] # strings have no places
    first, last = max(0, start) * place, min(stop, places) * place
    row = places * place
    data = [part for item in range(count) for part in (before, view[item * row + first : item * row + last], after)]
    return Tensor(whole.dtype, (count, stop - start, *whole.shape[2:]), b"".join(data))


def _together(parts: Sequence[Tensor], how: str) -> Tensor:
    """Return the outputs of all parts as one tensor."""
    if how == "last":
        return parts[0]
    first = parts[0]
    count = len(first)
    sizes = [prod(part.shape[1:]) * ITEM_SIZES[part.dtype] for part in parts]
    views = [memoryview(part.data) for part in parts]  # type: ignore[arg-type] # as above
    data = b"".join(
        [
            view[item * size : (item + 1) * size]
            for item in range(count)
            for view, size in zip(views, sizes, strict=True)
        ]
    )
    if how == "each":
        return Tensor(first.dtype, (count, len(parts), *first.shape[1:]), data)
    return Tensor(first.dtype, (count, sum(part.shape[1] for part in parts), *first.shape[2:]), data)


def _uncut(value: TensorInfo) -> TensorInfo:
    return TensorInfo(value.name, value.dtype, (value.shape[0], None, *value.shape[2:]))


def _collected(value: TensorInfo, how: str) -> TensorInfo:
    batch, *rest = value.shape
    shapes = {"last": (batch, *rest), "each": (batch, None, *rest), "joined": (batch, None, *rest[1:])}
    return TensorInfo(value.name, value.dtype, shapes[how])
