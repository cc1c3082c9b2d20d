"""From recipe to artifact: the passes in order."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.data import digest_batches, first_batch
from cdk_inference.model.building.evaluation.evaluate import (
    check_export,
    check_outputs,
    load_outputs,
    predict,
    save_outputs,
)
from cdk_inference.model.building.graph.graph import clean, fuse, rounds, serialize
from cdk_inference.model.building.graph.saturation import saturating
from cdk_inference.model.building.importers.independence import check_independence
from cdk_inference.model.building.package import (
    make_lock,
    make_manifest,
    write_artifact,
    write_evaluation,
    write_report,
)
from cdk_inference.model.building.search.architecture import architecture
from cdk_inference.model.building.search.search import compare, pinned, search
from cdk_inference.model.building.search.trials import Trials
from cdk_inference.model.card import render
from cdk_inference.model.files import weights
from cdk_inference.model.process import MISSING_EXTRA
from cdk_inference.model.recipe.precision import Auto, describe
from cdk_inference.model.recipe.structure import structure, unstructure
from cdk_inference.model.recipe.targets import exact_on
from cdk_inference.model.records.lock import Lock

if TYPE_CHECKING:
    from cdk_inference.model.building.passes import Passes
    from cdk_inference.model.recipe.recipe import ModelRecipe


def build(recipe: ModelRecipe, request: dict[str, Any], folder: Path, cache: Path, work: Path, passes: Passes) -> None:
    """Build the artifact into the work folder, with a report and a card, and a lock if a precision was searched."""
    trials, exported = _prepare(recipe, request, folder, cache, passes)
    if request["lock"] is not None:
        _rebuild(trials, structure(request["lock"], Lock), work)
    else:
        _find(trials, request, exported, work)
    passes.check_files(folder, recipe, request["files"])
    with passes.timed("card"):
        render(work)


def compare_all(
    recipe: ModelRecipe, request: dict[str, Any], folder: Path, cache: Path, work: Path, passes: Passes
) -> None:
    """Measure every precision, and write the table of them to ``candidates.json``."""
    trials, _ = _prepare(recipe, request, folder, cache, passes)
    policy = recipe.precision if isinstance(recipe.precision, Auto) else Auto()
    found = [unstructure(candidate) for candidate in compare(trials, policy)]
    (work / "candidates.json").write_text(json.dumps(found), "utf-8")


def evaluate(
    recipe: ModelRecipe, request: dict[str, Any], folder: Path, cache: Path, work: Path, passes: Passes
) -> None:
    """Judge a model file by the recipe's gate, on this machine, and write the result to ``judgement.json``."""
    trials, _ = _prepare(recipe, request, folder, cache, passes)
    judged = work / "judged"
    judged.mkdir()
    weights.write(judged, weights.join(Path(request["model"])))
    trial = trials.judge_folder(judged)
    result = {
        "metric": unstructure(trial.metric),
        "cosine": trial.cosine,
        "size_bytes": trial.size,
        "float32_ms": trial.latency.float32_ms if trial.latency else None,
        "latency_ms": trial.latency.ms if trial.latency else None,
        "speedup": trial.speedup,
        "failure": trial.failure,
        "exact_on": exact_on(saturates=bool(saturating(onnx.load(judged / weights.MODEL)))),
    }
    (work / "judgement.json").write_text(json.dumps(result), "utf-8")


def _prepare(
    recipe: ModelRecipe, request: dict[str, Any], folder: Path, cache: Path, passes: Passes
) -> tuple[Trials, float]:
    """Export and clean the model; return it with the cosine similarity of the outputs to the original's."""
    names = recipe.evaluation.class_names
    if names is not None and not (folder / names).is_file():
        raise ModelBuildError(f"evaluation.class_names must be an existing file, got '{names}'; write {folder / names}")
    with passes.timed("example"):
        example = first_batch(folder, recipe.evaluation.data, "evaluation.data", recipe.inputs)

    def export(target: Path) -> None:
        from cdk_inference.model.building.importers.sources import load  # noqa: PLC0415 - only this needs torch

        try:
            loaded = load(recipe, folder, cache, on_bytes=passes.received)
        except ImportError as error:
            raise ModelBuildError(f"{MISSING_EXTRA} ({error})") from error
        expected = loaded.run(example)
        check_outputs(expected, recipe, example, "the original, evaluation batch 0")
        check_independence(loaded, recipe, example, expected)
        save_outputs(target / "expected.npz", [expected])
        model = loaded.export(example)
        del loaded  # its weights, before those of the graph are written
        (target / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        passes.check_files(folder, recipe, request["files"])

    tensors = [unstructure(spec) for spec in (*recipe.inputs, *recipe.outputs)]
    files = [request["files"], request["packages"]]
    depends = [recipe.to_data()["source"], tensors, files, digest_batches([example])]
    original = passes.cached("export", depends, export)

    def tidy(target: Path) -> None:
        graph = clean(fuse(onnx.load(original / "model.onnx"), target))
        quantized, model = rounds(graph), serialize(graph)
        del graph
        # Models in 8 bits are compared as they are written: fused kernels may round some values the other way.
        outputs = predict(model, recipe, [example], "the exported graph", fused=not quantized)
        expected = load_outputs(original / "expected.npz")
        parity = check_export(expected[0], outputs[0], recipe, quantized=quantized)
        (target / "parity.json").write_text(json.dumps(parity), "utf-8")
        (target / "model.onnx").write_bytes(model)

    digest = hashlib.sha256((original / "model.onnx").read_bytes()).hexdigest()
    cleaned = passes.cached("clean", [digest, tensors, digest_batches([example])], tidy)
    parity = float(json.loads((cleaned / "parity.json").read_text("utf-8")))
    return Trials(recipe, folder, cleaned / "model.onnx", passes, request["fresh"], request["target"]), parity


def _find(trials: Trials, request: dict[str, Any], exported: float, work: Path) -> None:
    """Decide, and write what was found."""
    policy = trials.recipe.precision
    outcome = search(trials, policy) if isinstance(policy, Auto) else pinned(trials, policy)
    if outcome.best.shipped is None:
        raise AssertionError("what ships has been made")
    lock = make_lock(trials, outcome, request, architecture(trials.model), exported)
    if isinstance(policy, Auto):
        (work / "lock.json").write_text(lock.to_json(), "utf-8")
    _package(trials, lock, outcome.best.shipped, work, locked=False)
    with trials.passes.timed("check"):
        trials.check(work / "artifact")
    write_evaluation(work, trials, outcome.best.outputs)


def _rebuild(trials: Trials, lock: Lock, work: Path) -> None:
    """Make what a lock decided, without measuring anything.

    Raises
    ------
    ModelBuildError
        If other bytes come out than the lock says.
    """
    file, _ = trials.convert(lock.precision, lock.ranges)
    shipped = trials.ship(file, lock.precision)
    digest = weights.digest(shipped)
    if digest != lock.sha256:
        raise ModelBuildError(
            f"the model must have the sha256 of its lock, {lock.sha256[:12]}..., got {digest[:12]}... with "
            f"{describe(lock.precision)}; the code that builds changed, or this processor rounds otherwise: "
            f"delete {lock.name}.{lock.target}.lock.json (or build with --search), and review what changes"
        )
    _package(trials, lock, shipped, work, locked=True)


def _package(trials: Trials, lock: Lock, shipped: Path, work: Path, *, locked: bool) -> None:
    """Write what ships, and the report."""
    with trials.passes.timed("package"):
        manifest = make_manifest(trials.recipe, lock, shipped=shipped, float32=trials.float32)
        write_artifact(work, shipped, manifest)
    write_report(work, trials, lock, manifest, locked=locked)
