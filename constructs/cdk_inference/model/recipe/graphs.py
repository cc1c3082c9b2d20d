"""Models of several graphs: each is a source by itself, and a driver runs them together."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cdk_inference.model.recipe.checks import check
from cdk_inference.model.recipe.drivers import NEXT_SCORES, NEXT_TOKENS, Beam, Greedy, Recurrent, Search
from cdk_inference.model.recipe.sampling import Sampling
from cdk_inference.model.recipe.sources import OnnxFile, Source, TorchModule, TorchProgram
from cdk_inference.model.recipe.tensors import TensorSpec, check_batch_first, check_specs

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TAKEN = ("model", "driver", "manifest")  # names of other files of an artifact
_MOST = 16

Driver = Greedy | Beam | Sampling | Recurrent


@dataclass(frozen=True)
class Graph:
    """One graph of several.

    Parameters
    ----------
    source
        `TorchModule`, `TorchProgram` or `OnnxFile`.
    inputs, outputs
        Its tensors, batch first, with symbolic sizes as in a recipe.
    reads
        Where an input has another name than the value that it takes: the name of that value, by input.
    """

    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    reads: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = (TorchModule, TorchProgram, OnnxFile)
        check(isinstance(self.source, kinds), "graph.source", self.source, "a TorchModule, TorchProgram or OnnxFile")
        for kind in ("inputs", "outputs"):
            object.__setattr__(self, kind, check_specs(f"graph.{kind}", getattr(self, kind)))
        names = [spec.name for spec in (*self.inputs, *self.outputs)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        check(not repeated, "graph.inputs/outputs", repeated, "tensors with different names")
        check_batch_first(self.inputs, self.outputs)
        batch = self.inputs[0].shape[0]
        check(isinstance(batch, str), "graph.inputs", self.inputs[0].shape, "of a symbolic batch, such as 'batch'")
        known = {spec.name for spec in self.inputs}
        reads = isinstance(self.reads, dict) and known.issuperset(self.reads)
        reads = reads and all(isinstance(name, str) and name for name in self.reads.values())
        check(reads, "graph.reads", self.reads, f"a dict from some of the inputs {sorted(known)} to names of values")


@dataclass(frozen=True)
class Graphs:
    """Several graphs that are one model.

    All but the last run once, in their order: each takes inputs of the model, and outputs of graphs before it, by name.
    The last one is repeated by the driver.

    Parameters
    ----------
    graphs
        By name: lower-case letters, digits and underscores.
    driver
        `Greedy`, `Beam`, `Sampling` or `Recurrent`.
    """

    graphs: dict[str, Graph]
    driver: Driver
    kind: Literal["graphs"] = field(default="graphs", init=False)

    def __post_init__(self) -> None:
        graphs = self.graphs
        known = isinstance(graphs, dict) and 0 < len(graphs) <= _MOST
        known = known and all(isinstance(graph, Graph) for graph in graphs.values())
        check(known, "graphs", graphs, f"a dict of 1 to {_MOST} Graph by name")
        for name in graphs:
            named = isinstance(name, str) and _NAME.fullmatch(name) and name not in _TAKEN
            rule = f"lower-case letters, digits and underscores, at most 40, and none of {', '.join(_TAKEN)}"
            check(named, "graphs", name, rule)
        check(isinstance(self.driver, Driver), "driver", self.driver, "a Greedy, Beam, Sampling or Recurrent")
        inputs = {spec.name: spec for spec in self.step.inputs}
        outputs = {spec.name: spec for spec in self.step.outputs}
        self.driver.check_step(inputs, outputs)
        for output, name in self.driver.states.items():
            fits = output in outputs and name in inputs and outputs[output].dtype == inputs[name].dtype
            rule = "an output of the last graph, and an input of it of the same type"
            check(fits, "driver.states", {output: name}, rule)

    @property
    def step(self) -> Graph:
        """The graph that is repeated."""
        return [*self.graphs.values()][-1]

    def check_model(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        """Compare the inputs and outputs of a model with what its graphs and its driver have.

        Raises
        ------
        ModelBuildError
            Naming what is read and not there, is there and not read, or is of another type.
        """
        values = {spec.name: spec for spec in inputs}
        read = {*self.driver.check_inputs(values)}
        for name, graph in self.graphs.items():
            last = graph is self.step
            for spec in graph.inputs:
                value = graph.reads.get(spec.name, spec.name)
                if last and spec.name in self.driver.own_inputs:
                    continue
                if value not in values and last and spec.name in self.driver.states.values():
                    continue
                check(
                    value in values, f"{name}.{spec.name}", value, f"an input of the model, or made before: {[*values]}"
                )
                found = values[value]
                fits = found.dtype == spec.dtype and len(found.shape) == len(spec.shape)
                rule = f"read from a value of its type and axes, {spec.dtype} {spec.shape}"
                check(fits, f"{name}.{spec.name}", (value, found.dtype, found.shape), rule)
                read.add(value)
            if not last:
                again = sorted({spec.name for spec in graph.outputs}.intersection(values))
                check(
                    not again, f"{name}.outputs", again, "named otherwise than inputs of the model and earlier outputs"
                )
                values |= {spec.name: spec for spec in graph.outputs}
        unread = [spec.name for spec in inputs if spec.name not in read]
        check(not unread, "inputs", unread, "read by a graph")
        given = self.driver.gives(self.step.outputs)
        for spec in outputs:
            expected = given.get(spec.name)
            fits = expected is not None and spec.dtype == expected.dtype and _alike(spec, expected)
            choice = ", ".join(f"TensorSpec({each.name!r}, {each.dtype!r}, {each.shape})" for each in given.values())
            check(fits, "outputs", spec, f"one of what the driver gives: {choice}")

    def describe(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> dict[str, Any]:
        """Return what ``driver.json`` says; see `inference_runtime.engine.drivers`."""
        graphs = [{"name": name, "reads": dict(graph.reads)} for name, graph in self.graphs.items()]
        first = {self.step.reads.get(name, name) for name in self.driver.states.values()}
        given = [spec.name for spec in inputs if spec.name in first]
        # Left out if empty, so that locks of models without such states hold.
        optional = {"given": given} if given else {}
        return {"graphs": graphs, **optional, **self.driver.describe([spec.name for spec in outputs])}

    def deployed(self) -> dict[str, Graph]:
        """Return the graphs as they are deployed: with the likeliest tokens in place of a decoder's logits."""
        found = dict(self.graphs)
        if isinstance(self.driver, Search):
            name, logits = [*found][-1], self.driver.logits
            size = next(spec.shape[-1] for spec in self.step.outputs if spec.name == logits)
            places = self.driver.candidates(size)  # type: ignore[arg-type] # checked: a number
            batch = self.step.inputs[0].shape[0]
            others = tuple(spec for spec in self.step.outputs if spec.name != logits)
            ranked = (
                TensorSpec(NEXT_SCORES, "float32", (batch, places)),
                TensorSpec(NEXT_TOKENS, "int64", (batch, places)),
            )
            found[name] = replace(self.step, outputs=(*ranked, *others))
        return found


ModelSource = TorchModule | TorchProgram | OnnxFile | Graphs


def sources_of(source: ModelSource) -> tuple[Source, ...]:
    """Return the sources of all graphs."""
    return tuple(graph.source for graph in source.graphs.values()) if isinstance(source, Graphs) else (source,)


def _alike(spec: TensorSpec, other: TensorSpec) -> bool:
    """Tell whether two tensors have the same axes, whatever their symbolic sizes are called."""
    return [n if isinstance(n, int) else "" for n in spec.shape] == [
        n if isinstance(n, int) else "" for n in other.shape
    ]
