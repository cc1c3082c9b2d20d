"""From recipe to artifact: the passes in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.data import first_batch
from cdk_inference.model.building.exported import exported
from cdk_inference.model.building.package import (
    make_lock,
    make_manifest,
    saturates,
    write_artifact,
    write_evaluation,
    write_report,
)
from cdk_inference.model.building.search.search import compare, pinned, search
from cdk_inference.model.building.search.trials import Trials
from cdk_inference.model.card import render
from cdk_inference.model.files import weights
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
    weights.write(judged, weights.whole(Path(request["model"])))
    trial = trials.judge_folder(judged)
    result = {
        "metric": unstructure(trial.metric),
        "cosine": trial.cosine,
        "size_bytes": trial.size,
        "float32_ms": trial.latency.float32_ms if trial.latency else None,
        "latency_ms": trial.latency.ms if trial.latency else None,
        "speedup": trial.speedup,
        "failure": trial.failure,
        "exact_on": exact_on(saturates=saturates(judged)),
    }
    (work / "judgement.json").write_text(json.dumps(result), "utf-8")


def _prepare(
    recipe: ModelRecipe, request: dict[str, Any], folder: Path, cache: Path, passes: Passes
) -> tuple[Trials, float]:
    """Export and clean the model; return it with the cosine similarity of the outputs to the original's."""
    for field in ("class_names", "vocabulary"):
        name = getattr(recipe.evaluation, field)
        if name is not None and not (folder / name).is_file():
            raise ModelBuildError(f"evaluation.{field} must be an existing file, got '{name}'; write {folder / name}")
    with passes.timed("example"):
        example = first_batch(folder, recipe.evaluation.data, "evaluation.data", recipe.inputs)

    float32, parity = exported(recipe, request, folder, cache, example, passes)
    return Trials(recipe, folder, float32, passes, request["fresh"], request["target"]), parity


def _find(trials: Trials, request: dict[str, Any], exported: float, work: Path) -> None:
    """Decide, and write what was found."""
    policy = trials.recipe.precision
    outcome = search(trials, policy) if isinstance(policy, Auto) else pinned(trials, policy)
    if outcome.best.shipped is None:
        raise AssertionError("what ships has been made")
    lock = make_lock(trials, outcome, request, trials.conversions.architecture(), exported)
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
