"""How sure a small model must be before its answer counts without asking a large one: measured, not guessed."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.cache import hash_data
from cdk_inference.common.props.prop_types import check_arguments
from cdk_inference.common.store import Store
from cdk_inference.common.terminal import say
from cdk_inference.errors import ModelBuildError, PropError
from cdk_inference.model.calibration import BOUND_CONFIDENCE, Accuracy, Calibration, Point
from cdk_inference.model.files import weights
from cdk_inference.model.process import run_build
from cdk_inference.model.project import FROZEN, locked, readable_errors, request
from cdk_inference.model.recipe.structure import structure
from cdk_inference.model.records.cascade_lock import Basis, Decision, Entry, LockFile, Side, Table
from cdk_inference.model.records.fingerprint import hash_building

if TYPE_CHECKING:
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.project import Project

GRID = tuple(step / 100 for step in range(102))
"""The thresholds: from 0, at which the second model is never asked, to 1.01, at which it is always."""

_TOOLS = ("numpy", "onnxruntime", "pillow")
_CLASSIFIED = 2  # axes of class scores: batch and classes
_HALVINGS = 30  # of an interval from 0 to 1: far below what is told
_MILLION = 1e6  # what is told of shares


@dataclass(frozen=True)
class Answers:
    """The answers of a deployed model to its evaluation data.

    Parameters
    ----------
    name, version
        The name and version of the model.
    classes
        How many classes it tells apart.
    top
        The best class of each sample.
    confidences
        How sure the model is of that.
    labels
        The right classes, if they are known.
    descriptions
        Texts of the samples, if they have some.
    """

    name: str
    version: str
    classes: int
    top: tuple[int, ...]
    confidences: tuple[float, ...]
    labels: tuple[int, ...] | None
    descriptions: tuple[str, ...] | None


@check_arguments
def calibrate(
    first: ModelArtifact,
    then: ModelArtifact,
    *,
    agreement: float,
    cache: str | Path | None = None,
    frozen_lock: bool = False,
    lock: bool = True,
) -> Calibration:
    """Find how sure the first model must be, for the cascade to agree with the second as often as asked for.

    Both models, as they are deployed, run over the evaluation data of their recipes. These must be the same samples in
    the same order, each as the model takes it. Where the first model is at least as sure as the threshold, it answers,
    and elsewhere the second. The threshold is the lowest on a grid of 0.01 at which the target share of these answers
    agrees with the second model's. Confidence is the highest softmax of the first output.

    Measurements and decision are written to ``<first>+<then>.cascade.lock.json`` next to the first recipe. With a
    lock that fits both models' versions, their evaluation data and the tools, nothing is measured, and the calibration
    is the recorded one. For another target, the recorded table decides.

    The answers of a model are kept in the cache by all that they depend on.

    Parameters
    ----------
    first
        The small model, which sees every item.
    then
        The large model, which sees what the first is unsure of.
    agreement
        Share of all samples on which the cascade must give the second model's answer, above 0 and at most 1.
    cache
        Cache root, by default that of each model.
    frozen_lock
        Fail rather than measure or decide, if the lock has no threshold that fits. Default: only if the environment
        has ``CDK_INFERENCE_FROZEN_LOCK=1``, or one of the models has a frozen lock.
    lock
        Whether there is a lock. Pass False to look at the numbers: the models are measured whatever the lock says, and
        it stays as it is.

    Returns
    -------
    Calibration
        A placeholder (threshold 1, no samples) if a model was not built, since CDK does not bundle its stack.

    Raises
    ------
    PropError
        If the agreement is not a share.
    ModelBuildError
        If the models do not tell the same classes apart, or their evaluation data are not the same samples. Also if the
        lock is damaged, or frozen without a threshold that fits.
    """
    number = isinstance(agreement, int | float) and not isinstance(agreement, bool)
    if not number or not 0 < agreement <= 1:
        raise PropError(f"agreement must be a share above 0 and at most 1, such as 0.99, got {agreement!r}")
    for model in (first, then):
        _check_scores(model)
    for model in (first, then):
        if model.project is None and model.path is not None:
            raise ModelBuildError(
                f"a cascade must measure its models on the data of their recipes, got {model.manifest.name!r} from a "
                "registry; make it with recipe="
            )
    if first.project is None or then.project is None or first.path is None or then.path is None:
        return _placeholder(first, then, float(agreement))
    _check_class_names(first.project, then.project)
    one, two = _Deployed.of(first, first.project, first.path, cache), _Deployed.of(then, then.project, then.path, cache)
    if not lock:
        (answers, ran), (others, ran_too) = _answers(one), _answers(two)
        found = choose(answers, others, float(agreement))
        if ran or ran_too:
            say(f"cascade: {found.summary}")
        return found
    frozen = frozen_lock or first.frozen_lock or then.frozen_lock or os.environ.get(FROZEN, "") not in ("", "0")
    return _locked(one, two, float(agreement), frozen=frozen)


def choose(first: Answers, then: Answers, agreement: float) -> Calibration:
    """Return the lowest threshold that reaches an agreement, with what it does to the samples.

    Raises
    ------
    ModelBuildError
        If the answers are not to the same samples, or tell other classes apart.
    """
    table = count_agreement(first, then)
    return _calibration((first.name, then.name), (first.version, then.version), table, decide(table, agreement))


def count_agreement(first: Answers, then: Answers) -> Table:
    """Return what each threshold does to the samples.

    Raises
    ------
    ModelBuildError
        If the answers are not to the same samples, or tell other classes apart.
    """
    _check_same_samples(first, then)
    # The place on the grid from which a sample is escalated.
    places = [bisect_right(GRID, confidence) for confidence in first.confidences]
    labels = first.labels or then.labels
    right: list[int] | list[None] = [None] * len(GRID)
    if labels is not None:
        right = _given(places, _alike(first.top, labels), _alike(then.top, labels))
    descriptions = first.descriptions or then.descriptions
    return Table(
        samples=len(places),
        descriptions=None if descriptions is None else len(set(descriptions)),
        rows=tuple(
            zip(
                GRID,
                _given(places, [False] * len(places), [True] * len(places)),
                _given(places, _alike(first.top, then.top), [True] * len(places)),
                right,
                strict=True,
            )
        ),
    )


def decide(table: Table, agreement: float) -> Decision:
    """Return the lowest threshold that reaches an agreement."""
    # Exactly: 0.95 of 20 samples are 19, whatever the binary form of 0.95 is.
    needed = math.ceil(Fraction(repr(agreement)) * table.samples)
    threshold, escalated, agreed, right = next(row for row in table.rows if row[2] >= needed)
    return Decision(
        target_agreement=agreement,
        threshold=threshold,
        escalation_rate=_share(escalated, table.samples),
        agreement=_share(agreed, table.samples),
        agreement_bound=lower_bound(agreed, table.samples),
        accuracy=None if right is None else _share(right, table.samples),
    )


def lower_bound(hits: int, samples: int) -> float:
    """Return the share that is exceeded with 95 % confidence, given how many of the samples hit.

    The exact one-sided bound of Clopper and Pearson (Biometrika 26, 1934, 404-413). At this share, so many hits, or
    more, have a probability of 5 %. Approximations promise too much for shares near 1.
    """
    if hits == 0:
        return 0.0
    misses = range(samples - hits + 1)
    ways = [math.lgamma(samples + 1) - math.lgamma(m + 1) - math.lgamma(samples - m + 1) for m in misses]
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        hit, miss = math.log(share), math.log1p(-share)
        probability = math.fsum(math.exp(ways[m] + m * miss + (samples - m) * hit) for m in misses)
        low, high = (share, high) if probability < 1 - BOUND_CONFIDENCE else (low, share)
    return math.floor(low * _MILLION) / _MILLION


def _given(places: list[int], first: list[bool], then: list[bool]) -> list[int]:
    """Return how many hits there are at each threshold of the grid: the second model's where it is asked."""
    counts = [sum(first)] + [0] * (len(GRID) - 1)
    for place, one, two in zip(places, first, then, strict=True):
        counts[place] += two - one
    return list(accumulate(counts))


def _alike(one: tuple[int, ...], two: tuple[int, ...]) -> list[bool]:
    return [mine == other for mine, other in zip(one, two, strict=True)]


def _share(count: int, samples: int) -> float:
    return round(count / samples * _MILLION) / _MILLION


def _calibration(names: tuple[str, str], versions: tuple[str, str], table: Table, decision: Decision) -> Calibration:
    (_, _, alone, first_right), (_, _, _, then_right) = table.rows[0], table.rows[-1]
    accuracy = None
    if first_right is not None and then_right is not None and decision.accuracy is not None:
        accuracy = Accuracy(_share(first_right, table.samples), _share(then_right, table.samples), decision.accuracy)
    return Calibration(
        first=names[0],
        first_version=versions[0],
        then=names[1],
        then_version=versions[1],
        target=decision.target_agreement,
        threshold=decision.threshold,
        samples=table.samples,
        escalation_rate=decision.escalation_rate,
        agreement=decision.agreement,
        agreement_bound=decision.agreement_bound,
        first_agreement=_share(alone, table.samples),
        descriptions=table.descriptions,
        accuracy=accuracy,
        curve=tuple(
            Point(threshold, _share(escalated, table.samples), _share(agreed, table.samples))
            for threshold, escalated, agreed, _ in table.rows
        ),
    )


def _check_scores(model: ModelArtifact) -> None:
    spec = model.outputs[0]
    if len(spec.shape) != _CLASSIFIED:
        raise ModelBuildError(
            f"a cascade needs class scores (batch, classes), but the first output of '{model.manifest.name}' is "
            f"'{spec.name}' {spec.shape}; put the scores first among the outputs"
        )


def _check_class_names(first: Project, then: Project) -> None:
    """Refuse models whose class numbers mean different things."""
    files = [(project.folder, project.recipe.evaluation.class_names) for project in (first, then)]
    names = [(folder / file).read_text("utf-8").splitlines() for folder, file in files if file is not None]
    if len(names) < len(files):
        return
    for index, (one, two) in enumerate(zip_longest(*names)):
        if one != two:
            raise ModelBuildError(
                f"'{first.recipe.name}' and '{then.recipe.name}' must have the same classes in the same order, got "
                f"{one!r} and {two!r} as class {index}; cascade models of the same classes"
            )


def _check_same_samples(first: Answers, then: Answers) -> None:
    pair = f"'{first.name}' and '{then.name}'"
    if first.classes != then.classes:
        raise ModelBuildError(
            f"{pair} must have the same classes in the same order, got {first.classes} and {then.classes} classes; "
            "cascade models of the same classes"
        )
    way_out = "let both recipes' evaluation yield the same samples in the same order"
    if len(first.top) != len(then.top):
        raise ModelBuildError(
            f"{pair} must be evaluated on the same samples, got {len(first.top)} and {len(then.top)} samples; {way_out}"
        )
    for what, one, two in (
        ("described as", first.descriptions, then.descriptions),
        ("labelled", first.labels, then.labels),
    ):
        different = (i for i, (a, b) in enumerate(zip(one or (), two or (), strict=False)) if a != b)
        if one is not None and two is not None and (index := next(different, None)) is not None:
            raise ModelBuildError(
                f"{pair} must be evaluated on the same samples, got sample {index} {what} {one[index]!r} and "
                f"{two[index]!r}; {way_out}"
            )


def _placeholder(first: ModelArtifact, then: ModelArtifact, agreement: float) -> Calibration:
    return Calibration(
        first=first.manifest.name,
        first_version=first.version,
        then=then.manifest.name,
        then_version=then.version,
        target=agreement,
        threshold=1.0,
        samples=0,
        escalation_rate=1.0,
        agreement=1.0,
        agreement_bound=0.0,
        first_agreement=0.0,
        descriptions=None,
        accuracy=None,
        curve=(),
    )


@dataclass(frozen=True)
class _Deployed:
    """A model that was built, with its recipe and its folder."""

    model: ModelArtifact
    project: Project
    path: Path

    @classmethod
    def of(cls, model: ModelArtifact, project: Project, path: Path, cache: str | Path | None) -> _Deployed:
        return cls(model, project if cache is None else replace(project, cache=Path(cache).absolute()), path)

    @property
    def side(self) -> Side:
        """The models and data that a calibration holds for."""
        recipe = self.project.recipe.to_data()
        depends = {
            "function": self.project.recipe.evaluation.data,
            "tensors": [recipe["inputs"], recipe["outputs"]],
            "files": self.project.files,
            "packages": self.project.packages,
        }
        return Side(self.model.version, self.project.recipe.precision, self.project.target, hash_data(depends))

    @property
    def tools(self) -> dict[str, str]:
        """Versions of what reads the data and runs the model."""
        return {name: self.project.tools[name] for name in (*_TOOLS, *self.project.recipe.packages)}


def _locked(first: _Deployed, then: _Deployed, agreement: float, *, frozen: bool) -> Calibration:
    """Return what the lock says; measure or decide, and record it, where it says nothing."""
    names = (first.project.recipe.name, then.project.recipe.name)
    basis = Basis(first.side, then.side, first.tools | then.tools)
    file = LockFile(*names, first.project.folder, first.project.cache)

    def calibration(entry: Entry, decision: Decision) -> Calibration:
        return _calibration(names, (basis.first.version, basis.then.version), entry.table, decision)

    entry = file.find(basis, agreement, frozen=frozen)
    if entry is not None and (decision := entry.decision(agreement)) is not None:
        return calibration(entry, decision)
    with readable_errors(first.project), file.held():
        # Somebody else may have measured, or decided, while we waited.
        entry = file.find(basis, agreement, quiet=True)
        if entry is not None and (decision := entry.decision(agreement)) is not None:
            return calibration(entry, decision)
        if entry is None:
            entry = Entry(basis, count_agreement(_answers(first)[0], _answers(then)[0]), ())
        decision = decide(entry.table, agreement)
        file.record(entry.decided(decision))
    found = calibration(entry, decision)
    say(f"cascade: {found.summary}")
    return found


def _answers(deployed: _Deployed) -> tuple[Answers, bool]:
    """Return what a model answers, and whether it had to run."""
    project = deployed.project
    key = _key(deployed)
    store = Store(project.cache / "passes")
    found, ran = store.get(key), False
    if found is None:
        ran = True
        with readable_errors(project), locked(project):
            found = store.make(key, lambda folder: _run(deployed, folder))
    return structure(json.loads((found / "answers.json").read_text("utf-8")), Answers), ran


def _key(deployed: _Deployed) -> str:
    project = deployed.project
    depends = [
        project.fingerprint,
        project.tools,
        platform.python_version_tuple()[:2],
        hash_building(),
        deployed.model.asset_hash,
    ]
    return f"answers-{project.recipe.name}-{hash_data(depends)[:32]}"


def _run(deployed: _Deployed, folder: Path) -> None:
    """Run a model in a separate process, since data functions of two recipes may import files of the same name."""
    manifest, project = deployed.model.manifest, deployed.project
    # As the deployed functions do; see `Manifest.batch_dependent`.
    singly = manifest.batch_dependent and isinstance(manifest.inputs[0].shape[0], str)
    work = project.cache / "models" / f".{_key(deployed)}.building"
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir()
    try:
        more = {"model": str(weights.entry(deployed.path)), "singly": singly}
        run_build(project.recipe.name, request(project, "answers") | more, work)
        shutil.copyfile(work / "answers.json", folder / "answers.json")
    finally:
        shutil.rmtree(work, ignore_errors=True)
