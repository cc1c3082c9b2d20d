"""The graphs of a model: some run once, and the last one is repeated by a driver."""

from __future__ import annotations

from math import inf
from time import monotonic

from inference_runtime.errors import LittleTimeError, StageError
from inference_runtime.tensors.tensor import Tensor, zeros

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from inference_runtime.engine.interfaces import Session
    from inference_runtime.engine.session import TensorInfo


class Graphs:
    """The sessions of a model's graphs, and what each of them reads.

    Parameters
    ----------
    description
        `graphs` is a list of `{"name", "reads"}` in the order in which they run. `reads` has, by the name of an input,
        the name of the value that it takes, where that differs. `states` has the inputs of the last graph by the
        outputs that become them in the next step. `given` lists the inputs of the model that states begin with, if
        there are any.
    sessions
        The session of each graph, by name.
    own
        The inputs of the last graph that the driver makes.

    Attributes
    ----------
    inputs
        The model's inputs: what the graphs read, and neither a graph nor the driver makes. A state is among them if it
        begins with one.
    step
        The session of the last graph.
    deadline
        The time, as `time.monotonic` has it, after which no step begins.
    """

    def __init__(self, description: Mapping[str, Any], sessions: Mapping[str, Session], own: Iterable[str]) -> None:
        entries = description["graphs"]
        self._sessions = sessions
        self._once = [(sessions[entry["name"]], entry["reads"]) for entry in entries[:-1]]
        self.step = sessions[entries[-1]["name"]]
        self._reads: dict[str, str] = entries[-1]["reads"]
        self._states: dict[str, str] = description["states"]
        self._given: list[str] = description.get("given", [])
        made = frozenset(own)
        self._step_inputs = {value.name: value for value in self.step.inputs if value.name not in made}
        self._step_outputs = [value.name for value in self.step.outputs]
        self.inputs = self._free_inputs()
        self.deadline = inf

    def _free_inputs(self) -> list[TensorInfo]:
        found: dict[str, TensorInfo] = {}
        made: set[str] = set()
        for session, reads in self._once:
            for value in session.inputs:
                if (name := reads.get(value.name, value.name)) not in made:
                    found.setdefault(name, _renamed(value, name))
            made.update(value.name for value in session.outputs)
        kept = set(self._states.values())
        for value in self._step_inputs.values():
            name = self._reads.get(value.name, value.name)
            if name not in made and (value.name not in kept or name in self._given):
                found.setdefault(name, _renamed(value, name))
        return list(found.values())

    def values(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graphs that run once, and return the inputs with their outputs, by name."""
        values = dict(inputs)
        for session, reads in self._once:
            feed = {value.name: values[reads.get(value.name, value.name)] for value in session.inputs}
            outputs = session.run(feed)
            values.update(zip([value.name for value in session.outputs], outputs, strict=True))
        return values

    def begin(self, values: Mapping[str, Tensor], count: int) -> Feed:
        """Return the first inputs of the last graph for a number of items.

        A state that neither a graph makes nor the inputs have begins with zeros. Its free sizes, besides that of the
        batch, are 0 then, as those of a cache that holds nothing yet.
        """
        kept = set(self._states.values())
        constants, states = {}, {}
        for name, value in self._step_inputs.items():
            found = values.get(self._reads.get(name, name))
            if name not in kept:
                if found is None:
                    raise StageError(f"no graph of the model makes {name!r}, which its last graph reads")
                constants[name] = found
            else:
                states[name] = _first_state(value, count) if found is None else found
        return Feed(constants, states)

    def run_step(self, feed: Feed, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the last graph, put its states into the feed, and return its other outputs by name.

        Raises
        ------
        LittleTimeError
            If it is too late to begin.
        """
        if monotonic() > self.deadline:
            raise LittleTimeError("the function's time is nearly over: no further step of the model was begun")
        found = self.step.run({**own, **feed.constants, **feed.states})
        outputs = dict(zip(self._step_outputs, found, strict=True))
        for output, name in self._states.items():
            feed.states[name] = outputs.pop(output)
        return outputs

    def close(self) -> None:
        """Close all sessions."""
        for session in self._sessions.values():
            session.close()


class Feed:
    """The inputs of the last graph of a model, without those that the driver makes: one row for each sequence.

    Attributes
    ----------
    constants
        Inputs that stay the same in all steps, by name.
    states
        Inputs that a step makes for the next one, by name.
    """

    __slots__ = ("constants", "states")

    def __init__(self, constants: dict[str, Tensor], states: dict[str, Tensor]) -> None:
        self.constants = constants
        self.states = states

    def take(self, rows: Sequence[int], *, owners_change: bool) -> None:
        """Keep these rows, in this order.

        Parameters
        ----------
        owners_change
            Whether a row may belong to another item afterwards than the row in its place did. The constants of all rows
            of an item are the same.
        """
        self.states = {name: tensor.take(rows) for name, tensor in self.states.items()}
        if owners_change:
            self.constants = {name: tensor.take(rows) for name, tensor in self.constants.items()}


def _first_state(value: TensorInfo, count: int) -> Tensor:
    sizes = [size if isinstance(size, int) else 0 for size in value.shape]
    return zeros(value.dtype, [count, *sizes[1:]])


def _renamed(value: TensorInfo, name: str) -> TensorInfo:
    return value if value.name == name else type(value)(name, value.dtype, value.shape)
