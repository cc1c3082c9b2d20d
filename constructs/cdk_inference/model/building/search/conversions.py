"""Makes a model in each precision: one graph, or several that each have their own."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.data import digest_batches
from cdk_inference.model.building.evaluation.evaluate import start
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.graph import clean
from cdk_inference.model.building.quantization.calibrate import calibrate
from cdk_inference.model.building.quantization.precisions import convert, whole
from cdk_inference.model.building.search.architecture import architecture, candidates
from cdk_inference.model.building.search.optimize import FLOAT, can_fuse_attention, optimize
from cdk_inference.model.building.search.sensitivity import sensitivity, soften
from cdk_inference.model.files import weights
from cdk_inference.model.recipe.precision import (
    DynamicInt8,
    Float16,
    Float32,
    PerGraph,
    StaticInt8,
    WeightOnly,
    describe,
)
from cdk_inference.model.recipe.structure import unstructure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnx

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.passes import Passes
    from cdk_inference.model.files.weights import Model
    from cdk_inference.model.recipe.drivers import Search
    from cdk_inference.model.recipe.precision import Auto, GraphPrecision, Pinned
    from cdk_inference.model.recipe.targets import Target
    from cdk_inference.model.recipe.tensors import Declared

Ranges = dict[str, tuple[float, float]]

LARGEST_SHARE = 0.5
"""Share of the nodes that mixing leaves in float at most: beyond that, float32 is as good."""


class Conversions(Protocol):
    """Makes a model in each precision."""

    def architecture(self) -> str:
        """Return the kind of network that it is, as `Manifest` has it."""
        ...

    def candidates(self, policy: Auto) -> list[Pinned]:
        """Return the precisions worth trying, the best guess first."""
        ...

    def every(self) -> list[Pinned]:
        """Return a precision of each kind there is, whatever the architecture."""
        ...

    def softened(self, precision: Pinned, ranges: Ranges | None) -> Iterator[Pinned]:
        """Yield more exact forms of a precision that narrowly fails, the least exact first."""
        ...

    def convert(self, precision: Pinned, ranges: Ranges | None) -> tuple[Path, Ranges | None]:
        """Return the model in a precision, and the ranges that it was made with, calibrated unless given."""
        ...

    def fused(self, file: Path, precision: Pinned, work: Path) -> Model:
        """Return a model that `convert` made with operators fused for CPUs."""
        ...


@dataclass
class GraphConversions:
    """Makes one graph in each precision.

    Parameters
    ----------
    float32
        The exported and cleaned graph.
    declared
        Its inputs and outputs.
    passes
        Caches what takes long.
    target
        Architecture of the functions that run it, which 8-bit weights depend on; see `saturation`.
    calibrated
        Whether there is calibration data.
    calibration, evaluation
        Return its inputs in each kind of data.
    samples
        Returns the inputs on which a graph with fused operators is compared with one without: the last one, or all if
        attention is fused.
    driver
        The driver that runs it with caches, whose attention can be fused; None if no driver does.
    """

    float32: Path
    declared: Declared
    passes: Passes
    target: Target
    calibrated: bool
    calibration: Callable[[], Sequence[Batch]]
    evaluation: Callable[[], Sequence[Batch]]
    samples: Callable[[], Sequence[Batch]]
    driver: Search | None = None
    _attention: bool | None = field(default=None, init=False, repr=False)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The float graph."""
        return aside.load(self.float32)

    @cached_property
    def _digest(self) -> str:
        return weights.sha256(self.float32)

    def architecture(self) -> str:
        """Return the kind of network that it is."""
        return architecture(self.model)

    def candidates(self, policy: Auto) -> list[Pinned]:
        """Return the precisions worth trying, the best guess first."""
        return [*self.graph_candidates(policy)]

    def graph_candidates(self, policy: Auto) -> list[GraphPrecision]:
        """Return the same, as precisions of this graph."""
        return candidates(self.model, policy, calibrated=self.calibrated)

    def every(self) -> list[Pinned]:
        """Return a precision of each kind there is, whatever the architecture."""
        return [*every_kind(calibrated=self.calibrated)]

    def softened(self, precision: Pinned, ranges: Ranges | None) -> Iterator[Pinned]:
        """Yield a precision with the most harmful nodes more exact, twice as many each time; none if it is large."""
        if aside.is_aside(self.model):  # their effects are measured in sessions that need all weights in memory
            return
        try:
            with self.passes.timed("sensitivity", describe(precision)):
                order = sensitivity(self.model, _single(precision), ranges, self.evaluation(), self.target)
        except ModelBuildError:
            return  # a node that cannot be tried alone must not keep the rest from shipping
        count = 1
        while count <= len(order) * LARGEST_SHARE:
            yield soften(self.model, _single(precision), order[:count])
            count *= 2

    def convert(self, precision: Pinned, ranges: Ranges | None) -> tuple[Path, Ranges | None]:
        """Return the graph in a precision, and the ranges that it was made with, calibrated unless given."""
        single = _single(precision)
        if isinstance(single, Float32):
            return self.float32, None
        if isinstance(single, StaticInt8) and ranges is None:
            ranges = self._calibrate(single)

        def fill(folder: Path) -> None:
            # The tools of other precisions know no weights of files.
            spooled = isinstance(single, WeightOnly) and aside.is_aside(self.model)
            with aside.spooling(folder / "made") if spooled else nullcontext():
                converted = clean(convert(self.model, single, ranges, self.target))
                if isinstance(model := aside.write(converted, folder), Path):
                    start(model, describe(single), exact=False)
            shutil.rmtree(folder / "made", ignore_errors=True)

        depends = [self._digest, unstructure(single), ranges, self.target]
        made = self.passes.cached("candidates", depends, fill, describe(single))
        return made / weights.MODEL, ranges

    def fused(self, file: Path, precision: Pinned, work: Path) -> Model:
        """Return a graph that `convert` made with operators fused for CPUs."""
        return self.fused_graph(weights.whole(file), _single(precision), work)

    def fused_graph(self, graph: Model, precision: GraphPrecision, work: Path) -> Model:
        """Return a graph with operators fused for CPUs."""
        attends = precision.kind not in FLOAT and self._attends(work)
        return optimize(graph, precision.kind, self.declared, self.samples()[-1], work, attends=attends)

    def _attends(self, work: Path) -> bool:
        """Tell whether the float graph computes the same with fused attention."""
        if self.driver is None:
            return False
        if self._attention is None:
            prompts = self.driver.tokens if self.driver.prompt else None
            self._attention = can_fuse_attention(self.model, self.declared, self.samples(), work, prompts=prompts)
        return self._attention

    def _calibrate(self, precision: StaticInt8) -> Ranges:
        batches = self.calibration()

        def fill(folder: Path) -> None:
            model = whole(self.model, precision)
            ranges = calibrate(model, precision.method, precision.percentile, batches)
            (folder / "ranges.json").write_text(json.dumps(ranges), "utf-8")

        depends = [self._digest, precision.method, precision.percentile, digest_batches(batches)]
        made = self.passes.cached("prepare", depends, fill, "calibration")
        return {k: (low, high) for k, (low, high) in json.loads((made / "ranges.json").read_text("utf-8")).items()}


def every_kind(*, calibrated: bool) -> list[GraphPrecision]:
    """Return a precision of each kind, without what lacks calibration data."""
    found: list[GraphPrecision] = [DynamicInt8(), WeightOnly(8), WeightOnly(4), Float16()]
    return [StaticInt8(), *found] if calibrated else found


def _single(precision: Pinned) -> GraphPrecision:
    if isinstance(precision, PerGraph):
        raise ModelBuildError(f"precision of a single graph must not name graphs, got {describe(precision)}")
    return precision
