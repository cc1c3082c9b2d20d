"""Tries one precision on a model: converts it, and measures quality, size and latency."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cdk_inference.errors import ModelBuildError, ModelGateError
from cdk_inference.model.building.evaluation import measure
from cdk_inference.model.building.evaluation.data import Samples, load_function, load_samples
from cdk_inference.model.building.evaluation.evaluate import load_outputs, predict, save_outputs
from cdk_inference.model.building.evaluation.measure import Timing
from cdk_inference.model.building.evaluation.metrics import Judge, likeness, rounded
from cdk_inference.model.building.search.conversions import Conversions, GraphConversions
from cdk_inference.model.files import weights
from cdk_inference.model.recipe.checks import is_function
from cdk_inference.model.recipe.evaluation import limit, passes
from cdk_inference.model.recipe.graphs import Graphs
from cdk_inference.model.recipe.precision import Auto, Float32, describe, parts
from cdk_inference.model.recipe.structure import structure, unstructure
from cdk_inference.model.records.lock import Candidate
from cdk_inference.model.records.manifest import Metric

if TYPE_CHECKING:
    import numpy as np

    from cdk_inference.model.building.evaluation.metrics import Outputs
    from cdk_inference.model.building.passes import Passes
    from cdk_inference.model.files.weights import Model
    from cdk_inference.model.recipe.precision import Pinned
    from cdk_inference.model.recipe.recipe import ModelRecipe
    from cdk_inference.model.recipe.targets import Target

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Trial:
    """A precision that was tried.

    Parameters
    ----------
    precision
        The precision that was tried.
    shipped
        Folder with the model as it is deployed; None if it could not be made. All figures are of this form.
    ranges
        The ranges of the activations, if the precision has some.
    outputs
        Over the evaluation data.
    metric
        Quality and gate.
    latency
        How fast it is, next to float32.
    failure
        Why it cannot ship; empty if it can.
    misses
        How far it is from passing, as shares of what the gate allows; 0 if it passes.
    """

    precision: Pinned
    shipped: Path | None = None
    ranges: Ranges | None = None
    outputs: Outputs = field(default_factory=list)
    metric: Metric | None = None
    cosine: float | None = None
    latency: Timing | None = None
    failure: str = ""
    misses: float = float("inf")

    @property
    def size(self) -> int:
        """Bytes of the model."""
        return weights.size(self.shipped) if self.shipped else 0

    @property
    def speedup(self) -> float:
        """How much faster than float32; 0 if that is not known."""
        return self.latency.speedup if self.latency else 0.0

    def candidate(self, status: str, reason: str) -> Candidate:
        """Return what the report says about it."""
        return Candidate(
            name=describe(self.precision),
            status=status,
            reason=reason,
            precision=self.precision,
            quality=self.metric.quantized if self.metric else None,
            cosine=self.cosine,
            size_bytes=self.size or None,
            latency_ms=self.latency.ms if self.latency else None,
            speedup=self.latency.speedup if self.latency else None,
        )


@dataclass
class Trials:
    """The state that the trials of one model share.

    Parameters
    ----------
    recipe
        The recipe.
    folder
        Folder of its files.
    float32
        The file that the exported and cleaned model is opened by.
    passes
        Caches what takes long.
    fresh
        Told apart from earlier runs by this, what was measured is measured again; None if it need not be.
    target
        Architecture of the functions that run the model, which 8-bit weights depend on; see `saturation`.
    """

    recipe: ModelRecipe
    folder: Path
    float32: Path
    passes: Passes
    fresh: str | None = None
    target: Target = "arm64"

    @cached_property
    def samples(self) -> Samples:
        """The evaluation data."""
        with self.passes.timed("data"):
            return load_samples(self.folder, self.recipe.evaluation.data, "evaluation.data", self.recipe.inputs)

    @cached_property
    def calibration(self) -> Samples:
        """The calibration data."""
        return load_samples(self.folder, self.recipe.calibration or "", "calibration", self.recipe.inputs)

    @cached_property
    def conversions(self) -> Conversions:
        """Makes the model in each precision."""
        source = self.recipe.source
        if isinstance(source, Graphs):
            from cdk_inference.model.building.search.several import several  # noqa: PLC0415 - most models have one

            return several(self, source)
        return GraphConversions(
            self.float32,
            self.recipe,
            self.passes,
            self.target,
            calibrated=self.recipe.calibration is not None,
            calibration=lambda: self.calibration.inputs,
            evaluation=lambda: self.samples.inputs,
            samples=lambda: [self.sample],
        )

    @cached_property
    def sample(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
        """The sample on which latencies are measured."""
        return measure.typical_sample(self.samples.inputs, self.recipe.inputs)

    @cached_property
    def reference(self) -> Outputs:
        """Outputs of the float model over the evaluation data."""
        return self._outputs(self._float32, "float32")

    @cached_property
    def judge(self) -> Judge:
        """The metric that scores outputs."""
        evaluation = self.recipe.evaluation
        own = is_function(evaluation.metric)
        function = load_function(self.folder, evaluation.metric, "evaluation.metric") if own else None
        vocabulary = None
        if evaluation.vocabulary is not None:
            from cdk_inference.model.building.evaluation.texts import check_end, read_tokens  # noqa: PLC0415 - few models

            vocabulary = read_tokens(self.folder / evaluation.vocabulary)
            check_end(self.recipe, vocabulary)
        return Judge(evaluation, self.samples, self.reference, self.recipe.outputs, function, vocabulary)

    @cached_property
    def baseline(self) -> float:
        """The float model's quality."""
        return self.judge.score(self.reference)[0]

    def run(self, precision: Pinned) -> Trial:
        """Try a precision. A conversion that fails makes a trial that failed, not an error."""
        try:
            file, ranges = self.convert(precision)
            self._try(file)
            return self._judged(precision, self.ship(file, precision), ranges)
        except ModelBuildError as error:
            return Trial(precision, failure=str(error))

    def _try(self, file: Path) -> None:
        """Run one sample in a separate process, with threads as in a function: a crash fails this trial alone."""

        def fill(folder: Path) -> None:
            peak = measure.peak_memory(file, self.sample, folder, threads=2)
            (folder / "peak.json").write_text(json.dumps(peak), "utf-8")

        if file != self.float32:
            self.passes.cached("try", [weights.sha256(file), self.samples.digest], fill)

    def _judged(self, precision: Pinned, shipped: Path, ranges: Ranges | None) -> Trial:
        model = weights.whole(weights.entry(shipped))
        same = weights.identity(model) == self._digest
        outputs = self.reference if same else self._outputs(model, describe(precision))
        value, count = self.judge.score(outputs)
        evaluation = self.recipe.evaluation
        gate = limit(evaluation, self.baseline)
        metric = Metric(evaluation.metric, rounded(self.baseline), rounded(value), rounded(gate), count)
        latency = self._latency(model)
        failure, misses = self._judge(value, gate, weights.size(shipped), latency)
        try:
            cosine = round(likeness(outputs, self.reference), 4)
        except ModelBuildError:  # for example boxes, of which another number was found
            cosine = None
        return Trial(precision, shipped, ranges, outputs, metric, cosine, latency, failure, misses)

    def judge_folder(self, shipped: Path) -> Trial:
        """Judge a model that was made already."""
        return self._judged(Float32(), shipped, None)

    def check(self, packaged: Path) -> None:
        """Judge what was packaged once more, from its files.

        Raises
        ------
        ModelGateError
            If it does not pass the gate that it passed as a candidate.
        """
        model = weights.whole(weights.entry(packaged))
        if weights.identity(model) == self._digest:
            return
        value, _ = self.judge.score(self._predict(model, "the packaged model"))
        gate = limit(self.recipe.evaluation, self.baseline)
        if not passes(self.recipe.evaluation, value, gate):
            raise ModelGateError(
                f"the packaged model must pass the gate {gate:.6g}, as it did as a candidate, got "
                f"{self.recipe.evaluation.metric} {value:.6g}; give evaluation data and a model without randomness"
            )

    def ship(self, file: Path, precision: Pinned) -> Path:
        """Return a folder with a model as it is deployed: with operators fused for CPUs, and large weights aside."""

        def fill(folder: Path) -> None:
            with TemporaryDirectory(dir=folder) as work:
                weights.write(folder, self.conversions.fused(file, precision, Path(work)))

        kinds = [part.kind for part in parts(precision)]
        return self.passes.cached("optimize", [weights.sha256(file), kinds, self.samples.digest], fill)

    def convert(self, precision: Pinned, ranges: Ranges | None = None) -> tuple[Path, Ranges | None]:
        """Return the model in a precision, and the ranges that it was made with, calibrated unless given."""
        return self.conversions.convert(precision, ranges)

    def _outputs(self, model: Model, what: str) -> Outputs:
        def fill(folder: Path) -> None:
            save_outputs(folder / "outputs.npz", self._predict(model, what))

        depends = [weights.identity(model), self.samples.digest, self.fresh, self.target]
        made = self.passes.cached("evaluate", depends, fill, what)
        return load_outputs(made / "outputs.npz")

    def _predict(self, model: Model, what: str) -> Outputs:
        """Return the outputs over the evaluation data, in the arithmetic of the CPUs that the model is for."""
        return predict(model, self.recipe, self.samples.inputs, what, exact=self.target != "x86_64")

    def _latency(self, model: Model) -> Timing:
        digest = weights.identity(model)
        same = digest == self._digest
        # Where nothing is chosen, more rounds would decide nothing.
        rounds = measure.MAX_ROUNDS if isinstance(self.recipe.precision, Auto) else measure.FEWEST_ROUNDS

        def fill(folder: Path) -> None:
            if same:
                alone = measure.alone(model, self.sample)
                timing = Timing(alone, alone, 1.0, 1.0, 1.0)
            else:
                timing = measure.latency(self._float32, model, self.sample, rounds=rounds)
            (folder / "latency.json").write_text(json.dumps(unstructure(timing)), "utf-8")

        depends = [self._digest, digest, rounds, self.samples.digest, measure.host(), self.fresh]
        made = self.passes.cached("measure", depends, fill)
        return structure(json.loads((made / "latency.json").read_text("utf-8")), Timing)

    @property
    def _float32(self) -> Model:
        return self.float32 if weights.is_large(self.float32) else weights.read(self.float32)

    @cached_property
    def _digest(self) -> str:
        return weights.sha256(self.float32)

    def _judge(self, value: float, gate: float, size: int, latency: Timing) -> tuple[str, float]:
        """Return why a model cannot ship, and how far it is from that."""
        evaluation = self.recipe.evaluation
        failures, misses = [], 0.0
        if not passes(evaluation, value, gate):
            side = "below" if evaluation.higher_is_better else "above"
            failures.append(f"{evaluation.metric} {value:.6g} is {side} the gate {gate:.6g}")
            misses += abs(value - gate) / max(evaluation.max_drop, 1e-3)
        if evaluation.max_size_mb is not None and size > evaluation.max_size_mb * 1e6:
            failures.append(f"{size / 1e6:.2f} MB is above max_size_mb {evaluation.max_size_mb:g}")
            misses += size / (evaluation.max_size_mb * 1e6) - 1.0
        if evaluation.max_latency_ms is not None and latency.ms > evaluation.max_latency_ms:
            failures.append(f"{latency.ms:.3g} ms is above max_latency_ms {evaluation.max_latency_ms:g}")
            misses += latency.ms / evaluation.max_latency_ms - 1.0
        return "; ".join(failures), misses
