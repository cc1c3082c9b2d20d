"""Makes a model of several graphs in each precision: the graphs one by one, and what suits them together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from cdk_inference.model.building.evaluation.driven import Recorded
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.graph import all_nodes
from cdk_inference.model.building.search.conversions import GraphConversions, every_kind
from cdk_inference.model.files import weights
from cdk_inference.model.recipe.drivers import NEXT_TOKENS, Search
from cdk_inference.model.recipe.graphs import Graph
from cdk_inference.model.recipe.precision import Float32, PerGraph, describe
from cdk_inference.model.recipe.structure import unstructure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from cdk_inference.model.building.passes import Passes
    from cdk_inference.model.building.search.conversions import Ranges
    from cdk_inference.model.building.search.trials import Trials
    from cdk_inference.model.files.weights import Model
    from cdk_inference.model.recipe.graphs import Graphs
    from cdk_inference.model.recipe.precision import Auto, GraphPrecision, Pinned


def several(trials: Trials, source: Graphs) -> SeveralConversions:
    """Return what makes the graphs of some trials in each precision.

    Each graph is calibrated and compared on what it is asked while the float model runs on the recipe's data.
    """
    model = weights.whole(trials.float32)
    recorded = Recorded(model)
    files = weights.graphs(trials.float32.parent)
    last = [*source.graphs][-1]

    def conversions(name: str, declared: Graph) -> GraphConversions:
        # Two tokens that are as likely may change places, and that does not count as a difference.
        compared = tuple(spec for spec in declared.outputs if spec.name != NEXT_TOKENS)
        return GraphConversions(
            files[name],
            Graph(declared.source, declared.inputs, compared),
            trials.passes,
            trials.target,
            calibrated=trials.recipe.calibration is not None,
            calibration=lambda: recorded.calls(trials.calibration.inputs)[name],
            evaluation=lambda: recorded.calls(trials.samples.inputs)[name],
            samples=lambda: recorded.calls([trials.sample])[name],
            driver=source.driver if name == last and isinstance(source.driver, Search) else None,
        )

    graphs = {name: conversions(name, graph) for name, graph in source.deployed().items()}
    return SeveralConversions(weights.parts(model)[0], graphs, trials.passes)


@dataclass
class SeveralConversions:
    """Makes several graphs, each in its precision.

    Parameters
    ----------
    description
        The content of ``driver.json``.
    graphs
        Make each graph, by name.
    passes
        Caches what takes long.
    """

    description: Mapping[str, Any]
    graphs: Mapping[str, GraphConversions]
    passes: Passes

    def architecture(self) -> str:
        """Return the kind of network that all graphs are of; ``"mixed"`` if they differ."""
        kinds = {graph.architecture() for graph in self.graphs.values()} - {"other"}
        return "other" if not kinds else kinds.pop() if len(kinds) == 1 else "mixed"

    def candidates(self, policy: Auto) -> list[Pinned]:
        """Return the precisions worth trying: the best guesses of all graphs, the second ones, and so on.

        The best guesses are also tried with each graph in float, which may be what it takes to pass, or to be faster.
        """
        guesses = {name: self._guesses(name, policy) for name in self.graphs}
        found: list[PerGraph] = []
        for row in zip_longest(*guesses.values()):
            chosen = {name: one or guesses[name][-1] for name, one in zip(self.graphs, row, strict=True)}
            found.append(PerGraph(chosen))
        found += [one for best in found[:1] for one in self._with_one_in_float(best)]
        return [*_distinct(found)]

    def every(self) -> list[Pinned]:
        """Return a precision of each kind for all graphs that take it, whatever their architectures."""
        calibrated = any(graph.calibrated for graph in self.graphs.values())
        return [PerGraph(dict.fromkeys(self.graphs, one)) for one in every_kind(calibrated=calibrated)]

    def softened(self, precision: Pinned, ranges: Ranges | None) -> Iterator[Pinned]:  # noqa: ARG002 - of every kind
        """Yield a precision with one graph after the other in float."""
        yield from self._with_one_in_float(self._per_graph(precision))

    def convert(self, precision: Pinned, ranges: Ranges | None) -> tuple[Path, Ranges | None]:
        """Return the graphs in their precisions, and the ranges that they were made with, calibrated unless given."""
        chosen = self._per_graph(precision)
        made: dict[str, Path] = {}
        used: Ranges = {}
        for name, graph in self.graphs.items():
            given = None if ranges is None else _of_graph(ranges, name)
            made[name], found = graph.convert(chosen.graphs[name], given or None)
            used |= {f"{name}/{value}": bounds for value, bounds in (found or {}).items()}

        def fill(folder: Path) -> None:
            graphs = {name: weights.whole(file) for name, file in made.items()}
            model = aside.gathered(self.description, graphs, folder)
            if isinstance(model, bytes):
                weights.write(folder, model, aside=False)

        depends = [unstructure(chosen), used, {name: weights.sha256(file) for name, file in made.items()}]
        together = self.passes.cached("candidates", depends, fill, describe(chosen))
        return weights.entry(together), used or None

    def fused(self, file: Path, precision: Pinned, work: Path) -> Model:
        """Return the graphs that `convert` made with operators fused for CPUs."""
        chosen = self._per_graph(precision)
        _, made = weights.parts(file)
        fused: dict[str, Model] = {}
        for name, graph in self.graphs.items():
            (folder := work / name).mkdir()
            fused[name] = graph.fused_graph(made[name], chosen.graphs[name], folder)
        return aside.gathered(self.description, fused, work)

    def _guesses(self, name: str, policy: Auto) -> list[GraphPrecision]:
        """Return the precisions worth trying on a graph. Nodes are those of all graphs, operators of any."""
        model = self.graphs[name].model
        known = {known for node in all_nodes(model) for known in (node.name, node.op_type)}
        prefix = f"{name}/"
        kept = [node.removeprefix(prefix) for node in policy.keep_float if node.startswith(prefix) or node in known]
        return self.graphs[name].graph_candidates(replace(policy, keep_float=tuple(kept))) or [Float32()]

    def _per_graph(self, precision: Pinned) -> PerGraph:
        return precision if isinstance(precision, PerGraph) else PerGraph(dict.fromkeys(self.graphs, precision))

    def _with_one_in_float(self, precision: PerGraph) -> list[PerGraph]:
        changed = [PerGraph({**precision.graphs, name: Float32()}) for name in self.graphs]
        return [one for one in changed if one != precision]


def _distinct(found: Sequence[PerGraph]) -> Iterator[PerGraph]:
    """Yield precisions once each, without float32 for all graphs, which is tried anyway."""
    seen: list[PerGraph] = []
    for one in found:
        if one not in seen and not all(isinstance(each, Float32) for each in one.graphs.values()):
            seen.append(one)
            yield one


def _of_graph(ranges: Ranges, name: str) -> Ranges:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): bounds for key, bounds in ranges.items() if key.startswith(prefix)}
