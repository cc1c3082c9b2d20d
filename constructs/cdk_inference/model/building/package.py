"""Writes what a build leaves behind: the artifact that ships, and what was measured."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from cdk_inference.model.building.evaluation import measure
from cdk_inference.model.building.evaluation.baseline import baseline
from cdk_inference.model.building.evaluation.metrics import scores_output
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.graph import BATCH_WIDE, opset
from cdk_inference.model.building.graph.saturation import saturating
from cdk_inference.model.building.search.architecture import architecture
from cdk_inference.model.files import weights
from cdk_inference.model.recipe.evaluation import BOX_METRICS
from cdk_inference.model.recipe.graphs import Graphs
from cdk_inference.model.recipe.precision import Auto, PerGraph
from cdk_inference.model.recipe.structure import unstructure
from cdk_inference.model.recipe.targets import exact_on
from cdk_inference.model.records.lock import Lock
from cdk_inference.model.records.manifest import MEMORY_BATCH, Distribution, GraphFacts, Manifest, Measured

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.evaluation.measure import Timing
    from cdk_inference.model.building.evaluation.metrics import Outputs
    from cdk_inference.model.building.search.search import Outcome
    from cdk_inference.model.building.search.trials import Trials
    from cdk_inference.model.recipe.recipe import ModelRecipe

REPORT_VERSION = 1
MAX_SAMPLES = 12
"""Samples that the card shows."""

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_TOP_CLASSES = 50


def make_lock(trials: Trials, outcome: Outcome, request: dict[str, Any], architecture: str, exported: float) -> Lock:
    """Return what a search decided, as the lock that makes every later build the same.

    Parameters
    ----------
    architecture
        The architecture that the candidates were chosen for.
    exported
        Cosine similarity of the exported graph's outputs with the original's.
    """
    best = outcome.best
    if best.shipped is None or best.metric is None:
        raise AssertionError("what ships has been made and measured")
    return Lock(
        name=trials.recipe.name,
        basis=request["basis"],
        tools=request["tools"],
        precision=best.precision,
        ranges=best.ranges,
        sha256=weights.digest(best.shipped),
        architecture=architecture,
        target=trials.target,
        exact_on=exact_on(saturates=saturates(best.shipped)),
        metric=best.metric,
        parity={"exported": exported} | ({} if best.cosine is None else {"quantized": round(best.cosine, 3)}),
        measured=_measured(trials, best.shipped, best.latency),
        distributions=distributions(trials.recipe, best.outputs),
        candidates=outcome.candidates,
        baseline=baseline(trials.recipe, trials.samples, best.outputs),
        sound_seconds=_sound_seconds(trials),
    )


def saturates(shipped: Path) -> bool:
    """Tell whether 16-bit sums of a graph's 8-bit products can saturate on some CPUs."""
    return any(saturating(aside.load(graph)) for graph in weights.graphs(shipped).values())


def _sound_seconds(trials: Trials) -> float:
    """Return how long the sample lasts whose latency is measured; 0 if it is not sound."""
    rate = trials.recipe.evaluation.sample_rate
    return 0.0 if rate is None else round(trials.sample[trials.recipe.inputs[0].name].shape[1] / rate, 3)


def _measured(trials: Trials, shipped: Path, latency: Timing | None) -> Measured:
    model = weights.entry(shipped)
    sample = trials.sample
    # A model whose batch is fixed gave a whole batch as the sample.
    single = all(isinstance(spec.shape[0], str) for spec in trials.recipe.inputs)
    batch = {name: np.repeat(array, MEMORY_BATCH, axis=0) for name, array in sample.items()} if single else sample
    timing = latency or measure.Timing(0.0, 0.0, 1.0, 1.0, 1.0)
    return Measured(
        cpu=measure.cpu(),
        float32_ms=timing.float32_ms,
        deployed_ms=timing.ms,
        speedup=timing.speedup,
        float32_peak_mb=_peak_memory(trials, trials.float32, sample),
        deployed_peak_mb=_peak_memory(trials, model, sample),
        batch_peak_mb=_peak_memory(trials, model, batch),
        threads_ms=_curve(trials, model),
    )


def _peak_memory(trials: Trials, model: Path, sample: Batch) -> float:
    """Return the peak memory of a process that runs a model, in MB, from the cache if it is the same machine."""

    def fill(folder: Path) -> None:
        (folder / "peak.json").write_text(json.dumps(measure.peak_memory(model, sample, folder)), "utf-8")

    size = len(next(iter(sample.values())))
    depends = [_digest(model), trials.samples.digest, size, measure.host(), trials.fresh, "memory"]
    made = trials.passes.cached("measure", depends, fill, "memory")
    return float(json.loads((made / "peak.json").read_text("utf-8")))


def _curve(trials: Trials, model: Path) -> dict[str, float]:
    """Return the latency by number of threads, from the cache if it is the same machine."""

    def fill(folder: Path) -> None:
        (folder / "curve.json").write_text(json.dumps(measure.curve(model, trials.sample)), "utf-8")

    depends = [_digest(model), trials.samples.digest, measure.host(), trials.fresh, "curve"]
    made = trials.passes.cached("measure", depends, fill, "threads")
    found: dict[str, float] = json.loads((made / "curve.json").read_text("utf-8"))
    return found


def _digest(model: Path) -> str:
    """Return the hash of a model, with its weights if they lie next to it."""
    return weights.digest(model.parent)


def distributions(recipe: ModelRecipe, outputs: Outputs) -> dict[str, Distribution]:
    """Return how the values of each output are distributed, rounded to three digits."""
    found = {}
    classified = scores_output(outputs[0], recipe.evaluation.top) if recipe.evaluation.top is not None else None
    for index, spec in enumerate(recipe.outputs):
        arrays = [batch[index] for batch in outputs]
        values = np.concatenate([a.reshape(-1) for a in arrays]).astype(np.float64)
        top1: dict[str, float] = {}
        if index == classified:
            top1 = _shares(np.concatenate([np.argmax(a, axis=-1).reshape(-1) for a in arrays]))
        quantiles = tuple(map(_round, np.quantile(values, _QUANTILES))) if values.size else ()
        mean, std = (_round(values.mean()), _round(values.std())) if values.size else (0.0, 0.0)
        found[spec.name] = Distribution(mean, std, quantiles, top1)
    return found


def _shares(classes: np.ndarray[Any, Any]) -> dict[str, float]:
    numbers, counts = np.unique(classes, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_TOP_CLASSES]
    return {str(numbers[i]): _round(counts[i] / len(classes)) for i in order}


def _round(value: Any) -> float:  # noqa: ANN401 - a NumPy scalar
    return float(f"{float(value):.2e}")


def make_manifest(recipe: ModelRecipe, lock: Lock, *, shipped: Path, float32: Path) -> Manifest:
    """Return what an artifact says about itself: what was decided, and what the files are.

    Parameters
    ----------
    lock
        The decision; what was measured counts only if a search made it, since a lock then makes it the same everywhere.
    shipped, float32
        Folder with what ships, and the exported model.
    """
    graphs = {name: onnx.load(file, load_external_data=False) for name, file in weights.graphs(shipped).items()}
    recipe_hash = hashlib.sha256(json.dumps(recipe.to_data(), sort_keys=True).encode()).hexdigest()
    return Manifest(
        name=recipe.name,
        model_version=weights.digest(shipped)[:12],
        inputs=recipe.inputs,
        outputs=recipe.outputs,
        architecture=lock.architecture,
        precision=lock.precision.kind,
        target=lock.target,
        exact_on=lock.exact_on,
        opset=max(opset(graph) for graph in graphs.values()),
        size_bytes=weights.size(shipped),
        baseline_size_bytes=weights.size(float32.parent),
        metric=lock.metric,
        parity=lock.parity,
        measured=lock.measured if isinstance(recipe.precision, Auto) else None,
        distributions=lock.distributions,
        batch_dependent=any(node.op_type in BATCH_WIDE for graph in graphs.values() for node in graph.graph.node),
        provenance={
            "license": recipe.provenance.license,
            "origin": recipe.provenance.origin,
            "recipe": recipe_hash,
            **{f"version:{name}": number for name, number in lock.tools.items()},
        },
        baseline=lock.baseline,
        graphs=_graph_facts(recipe, lock, shipped),
        sound_seconds=lock.sound_seconds,
    )


def _graph_facts(recipe: ModelRecipe, lock: Lock, shipped: Path) -> dict[str, GraphFacts]:
    """Return what a manifest says of each graph, if there are several."""
    if not isinstance(recipe.source, Graphs):
        return {}
    chosen = lock.precision
    return {
        name: GraphFacts(
            architecture=architecture(onnx.load(file)),
            precision=(chosen.graphs[name] if isinstance(chosen, PerGraph) else chosen).kind,
            size_bytes=file.stat().st_size
            + sum(each.stat().st_size for each in [file.with_suffix(".weights")] if each.is_file()),
        )
        for name, file in weights.graphs(shipped).items()
    }


def write_artifact(work: Path, shipped: Path, manifest: Manifest) -> None:
    """Write what ships."""
    (work / "artifact").mkdir(parents=True)
    for file in weights.files(shipped):
        shutil.copyfile(file, work / "artifact" / file.name)
    (work / "artifact" / "manifest.json").write_text(manifest.to_json(), "utf-8")


def write_report(work: Path, trials: Trials, lock: Lock, manifest: Manifest, *, locked: bool) -> None:
    """Write ``report.json``: what was measured, which does not ship and may differ from build to build."""
    recipe = trials.recipe
    evaluation = recipe.evaluation
    metric = manifest.metric
    report = {
        "schema_version": REPORT_VERSION,
        "name": manifest.name,
        "model_version": manifest.model_version,
        "architecture": manifest.architecture,
        "recipe": recipe.to_data(),
        "class_names": _class_names(recipe, trials.folder),
        "host": {
            "cpu": measure.cpu(),
            "cores": os.cpu_count(),
            "threads": 1,
            "python": platform.python_version(),
            "onnxruntime": version("onnxruntime"),
        },
        "locked": locked,
        "auto": isinstance(recipe.precision, Auto),
        "candidates": [unstructure(candidate) for candidate in lock.candidates],
        "gate": None
        if metric is None
        else {
            "metric": metric.name,
            "baseline": metric.baseline,
            "deployed": metric.quantized,
            "limit": metric.gate,
            "higher_is_better": evaluation.higher_is_better,
            "samples": metric.samples,
            "floor": evaluation.floor,
            "max_latency_ms": evaluation.max_latency_ms,
            "max_size_mb": evaluation.max_size_mb,
        },
        "peak_memory_mb": {
            "float32": lock.measured.float32_peak_mb,
            "deployed": lock.measured.deployed_peak_mb,
        },
        "measured": unstructure(lock.measured),
        "parity": manifest.parity,
        "passes": trials.passes.done,
    }
    (work / "report.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def write_evaluation(work: Path, trials: Trials, outputs: Outputs) -> None:
    """Write the outputs of both models and a few samples, which the card shows."""
    arrays: dict[str, Any] = {}
    for index, spec in enumerate(trials.recipe.outputs):
        for kind, source in (("float", trials.reference), ("deployed", outputs)):
            parts = [batch[index] for batch in source]
            if len({part.shape[1:] for part in parts}) == 1:
                arrays[f"{kind}_{spec.name}"] = np.concatenate(parts)
    if trials.samples.labelled and trials.recipe.evaluation.needs_labels:
        labels = [np.asarray(of_batch) for of_batch in trials.samples.labels]
        if len({part.shape[1:] for part in labels}) == 1:
            arrays["labels"] = np.concatenate(labels)
    np.savez(work / "evaluation.npz", **arrays)
    np.savez(work / "samples.npz", **_samples(trials, outputs))


def _samples(trials: Trials, outputs: Outputs) -> dict[str, Any]:
    """Return samples spread evenly over the data, with their numbers among all of them."""
    sizes = trials.samples.sizes
    places = [(batch, index) for batch, size in enumerate(sizes) for index in range(size)]
    count = min(MAX_SAMPLES, len(places))
    chosen = [round(k * (len(places) - 1) / max(1, count - 1)) for k in range(count)]
    arrays: dict[str, Any] = {"numbers": np.array(chosen)}
    for spec in trials.recipe.inputs:
        parts = [trials.samples.inputs[batch][spec.name][index] for batch, index in (places[n] for n in chosen)]
        if len({part.shape for part in parts}) == 1:
            arrays[f"input_{spec.name}"] = np.stack(parts)
    if trials.recipe.evaluation.metric in BOX_METRICS:
        for model, source in (("float", trials.reference), ("deployed", outputs)):
            found = trials.judge.found(source)
            boxes = [np.insert(found[n], 0, place, axis=1) for place, n in enumerate(chosen)]
            arrays[f"boxes_{model}"] = np.concatenate(boxes)
    texts = [trials.samples.descriptions[batch] for batch, _ in (places[n] for n in chosen)]
    if all(text is not None for text in texts):
        arrays["descriptions"] = np.array(
            [text[places[n][1]] for text, n in zip(texts, chosen, strict=True) if text is not None]
        )
    return arrays


def _class_names(recipe: ModelRecipe, folder: Path) -> list[str] | None:
    if recipe.evaluation.class_names is None:
        return None
    return (folder / recipe.evaluation.class_names).read_text("utf-8").splitlines()
