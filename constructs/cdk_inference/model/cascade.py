"""How sure a small model must be before its answer counts without asking a large one: measured, not guessed."""

from __future__ import annotations

import json
import math
import platform
import shutil
from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import ModelBuildError, PropError
from cdk_inference.model.builder import locked, readable_errors, request
from cdk_inference.model.cache import hash_data, hash_folder
from cdk_inference.model.process import run_build, say
from cdk_inference.model.store import Store
from cdk_inference.model.structure import structure, unstructure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.builder import Project

SCHEMA_VERSION = 1

GRID = tuple(step / 100 for step in range(102))
"""The thresholds: from 0, at which the second model is never asked, to 1.01, at which it is always."""

BOUND_CONFIDENCE = 0.95
"""How sure it is that the agreement is not below its lower bound, if the threshold had been fixed before."""

_UNBUILT = "unbuilt"
_CLASSIFIED = 2  # axes of class scores: batch and classes
_HALVINGS = 30  # of an interval from 0 to 1: far below what is told
_MILLION = 1e6  # what is told of shares


@dataclass(frozen=True)
class Point:
    """What one threshold would do.

    Parameters
    ----------
    threshold
        A confidence; below it, the second model is asked.
    escalation_rate
        Share of the samples that the second model would be asked about.
    agreement
        Share of the samples that get the second model's answer, whoever gives it.
    """

    threshold: float
    escalation_rate: float
    agreement: float


@dataclass(frozen=True)
class Accuracy:
    """Share of the samples whose answer is the label.

    Parameters
    ----------
    first, then
        Of each model alone.
    cascade
        Of both together, at the calibrated threshold.
    """

    first: float
    then: float
    cascade: float


@dataclass(frozen=True)
class Calibration:
    """A threshold, and what it did to the evaluation data: pure data, the same wherever it is measured.

    Parameters
    ----------
    first, then
        Names of the two models.
    first_version, then_version
        Their versions.
    target
        The agreement that was asked for.
    threshold
        Where the first model is less sure than this, the second is asked: from 0, which asks never, to 1.01, which
        asks always.
    samples
        How many were evaluated; 0 in a placeholder.
    escalation_rate
        Share of them that the second model was asked about.
    agreement
        Share of them that got the second model's answer, whoever gave it.
    agreement_bound
        About with 95 % confidence, the agreement on data like these is at least this (one-sided, Clopper-Pearson), if
        the samples are independent of each other. Only about, because the threshold is chosen on the same samples: the
        bound is exact for a threshold that was fixed before.
    first_agreement
        Share of them on which the first model alone has the second's answer.
    descriptions
        How many of the samples' descriptions differ; None if they have none. Fewer than samples means that several
        were made from one, and that the bound promises too much.
    accuracy
        None unless the evaluation data have class numbers as labels.
    curve
        By threshold, what it would have done.
    """

    first: str
    first_version: str
    then: str
    then_version: str
    target: float
    threshold: float
    samples: int
    escalation_rate: float
    agreement: float
    agreement_bound: float
    first_agreement: float
    descriptions: int | None
    accuracy: Accuracy | None
    curve: tuple[Point, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def warning(self) -> str | None:
        """What makes the cascade useless on the evaluation data, and what to do; None if it is of use."""
        if not self.samples:
            return None
        pair = f"the cascade of {self.first} and {self.then}"
        if self.escalation_rate == 1.0:
            return (
                f"{pair} asks {self.then} about every sample, to agree with it on {_percent(self.target)} of them: "
                f"use {self.then} alone, lower the agreement, or take a better first model"
            )
        if self.escalation_rate == 0.0:
            return (
                f"{pair} never asks {self.then}: {self.first} alone agrees with it on {_percent(self.agreement)} of "
                f"{self.samples} samples, and {_percent(self.target)} was asked for; use {self.first} alone, or ask "
                "for more"
            )
        return None

    @property
    def summary(self) -> str:
        """One line for people."""
        if not self.samples:
            return _UNBUILT
        line = (
            f"{self.first} counts from confidence {self.threshold:.2f}, else {self.then} is asked: "
            f"{_percent(self.escalation_rate)} of {self.samples} samples, agreement {_percent(self.agreement)} "
            f"(target {_percent(self.target)}, at least {_percent(self.agreement_bound)} with "
            f"about {_percent(BOUND_CONFIDENCE)} confidence, {self.first} alone {_percent(self.first_agreement)})"
        )
        if self.accuracy is None:
            return line
        found = self.accuracy
        return f"{line}, accuracy {_percent(found.cascade)} (alone {_percent(found.first)} and {_percent(found.then)})"

    def manifest(self, *, cost_per_million: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Return what the template says about the cascade, as JSON-compatible data without the curve.

        Parameters
        ----------
        cost_per_million
            Estimated cost of a million items, by way of scoring them.
        """
        data: dict[str, Any] = {
            "schema_version": self.schema_version,
            "first": {"name": self.first, "model_version": self.first_version},
            "then": {"name": self.then, "model_version": self.then_version},
            "target_agreement": self.target,
            "threshold": self.threshold,
            "samples": self.samples,
        }
        if self.samples:
            data |= {
                "expected_escalation_rate": self.escalation_rate,
                "expected_agreement": self.agreement,
                "agreement_lower_bound": self.agreement_bound,
                "first_agreement": self.first_agreement,
            }
        if self.descriptions is not None:
            data["descriptions"] = self.descriptions
        if self.accuracy is not None:
            data["expected_accuracy"] = unstructure(self.accuracy)
        if cost_per_million is not None:
            data["cost_per_million"] = dict(cost_per_million)
        return data

    def to_json(self) -> str:
        """Serialize with sorted keys and a final newline."""
        return json.dumps(unstructure(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not a calibration of this schema version, with what is wrong in it.
        """
        data = json.loads(text)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(f"calibration has schema version {version!r}, expected {SCHEMA_VERSION}")
        return structure(data, cls)


@dataclass(frozen=True)
class Answers:
    """What a deployed model answers to its evaluation data.

    Parameters
    ----------
    name, version
        Of the model.
    classes
        How many it tells apart.
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


def calibrate(
    first: ModelArtifact, then: ModelArtifact, *, agreement: float, cache: str | Path | None = None
) -> Calibration:
    """Find how sure the first model must be, for the cascade to agree with the second as often as asked for.

    Both models, as they are deployed, run over the evaluation data of their recipes, which must be the same samples in
    the same order, each as the model takes it. The threshold is the lowest on a grid of 0.01 at which answering with
    the first model where it is at least so sure, and with the second elsewhere, agrees with the second on the target
    share of all samples. Confidence is the highest softmax of the first output.

    What a model answers is kept in the cache by all that it depends on; another target runs nothing again.

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

    Returns
    -------
    Calibration
        A placeholder (threshold 1, no samples) if a model was not built, since CDK does not bundle its stack.

    Raises
    ------
    PropError
        If the agreement is no share.
    ModelBuildError
        If the models do not tell the same classes apart, or their evaluation data are not the same samples.
    """
    number = isinstance(agreement, int | float) and not isinstance(agreement, bool)
    if not number or not 0 < agreement <= 1:
        raise PropError(f"agreement is {agreement!r}, must be a share above 0 and at most 1, such as 0.99")
    for model in (first, then):
        _check_scores(model)
    if first.project is None or then.project is None or first.path is None or then.path is None:
        return _placeholder(first, then, float(agreement))
    _check_class_names(first.project, then.project)
    one, ran = _answers(first.project, first, first.path, cache)
    two, ran_too = _answers(then.project, then, then.path, cache)
    calibration = choose(one, two, float(agreement))
    if ran or ran_too:
        say(f"cascade: {calibration.summary}")
    return calibration


def choose(first: Answers, then: Answers, agreement: float) -> Calibration:
    """Return the lowest threshold that reaches an agreement, with what it does to the samples.

    Raises
    ------
    ModelBuildError
        If the answers are not to the same samples, or tell other classes apart.
    """
    _check_same_samples(first, then)
    samples = len(first.top)
    # The place on the grid from which a sample is escalated.
    places = [bisect_right(GRID, confidence) for confidence in first.confidences]
    alike = [one == two for one, two in zip(first.top, then.top, strict=True)]
    escalated = _below(places)
    disagreeing = _below([place for place, same in zip(places, alike, strict=True) if not same])
    agreed = [samples - disagreeing[-1] + gone for gone in disagreeing]
    # Exactly: 0.95 of 20 samples are 19, whatever the binary form of 0.95 is.
    needed = math.ceil(Fraction(repr(agreement)) * samples)
    chosen = next(place for place, count in enumerate(agreed) if count >= needed)
    labels = first.labels or then.labels
    descriptions = first.descriptions or then.descriptions
    return Calibration(
        first=first.name,
        first_version=first.version,
        then=then.name,
        then_version=then.version,
        target=agreement,
        threshold=GRID[chosen],
        samples=samples,
        escalation_rate=_share(escalated[chosen], samples),
        agreement=_share(agreed[chosen], samples),
        agreement_bound=lower_bound(agreed[chosen], samples),
        first_agreement=_share(agreed[0], samples),
        descriptions=None if descriptions is None else len(set(descriptions)),
        accuracy=None if labels is None else _accuracy(first, then, labels, GRID[chosen]),
        curve=tuple(
            Point(threshold, _share(gone, samples), _share(good, samples))
            for threshold, gone, good in zip(GRID, escalated, agreed, strict=True)
        ),
    )


def lower_bound(hits: int, samples: int) -> float:
    """Return the share that is exceeded with 95 % confidence, given how many of the samples hit.

    The exact one-sided bound of Clopper and Pearson (Biometrika 26, 1934, 404-413): the share at which so many hits, or
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


def _below(places: list[int]) -> list[int]:
    """Return, for each threshold of the grid, how many samples it escalates."""
    counts = [0] * len(GRID)
    for place in places:
        counts[place] += 1
    return list(accumulate(counts))


def _share(count: int, samples: int) -> float:
    return round(count / samples * _MILLION) / _MILLION


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _accuracy(first: Answers, then: Answers, labels: tuple[int, ...], threshold: float) -> Accuracy:
    together = (
        one if confidence >= threshold else two
        for one, two, confidence in zip(first.top, then.top, first.confidences, strict=True)
    )
    one, two, both = (
        _share(sum(answer == label for answer, label in zip(answers, labels, strict=True)), len(labels))
        for answers in (first.top, then.top, together)
    )
    return Accuracy(one, two, both)


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
                f"{_pair(first.recipe.name, then.recipe.name)}: class {index} is {one!r} to the one and {two!r} to the "
                "other; a cascade needs models of the same classes in the same order"
            )


def _check_same_samples(first: Answers, then: Answers) -> None:
    pair = _pair(first.name, then.name)
    if first.classes != then.classes:
        raise ModelBuildError(
            f"{pair}: '{first.name}' tells {first.classes} classes apart and '{then.name}' {then.classes}; a cascade "
            "needs models of the same classes in the same order"
        )
    way_out = "let both recipes' evaluation yield the same samples in the same order"
    if len(first.top) != len(then.top):
        raise ModelBuildError(
            f"{pair}: '{first.name}' is evaluated on {len(first.top)} samples and '{then.name}' on {len(then.top)}; "
            f"{way_out}"
        )
    for what, one, two in (
        ("described as", first.descriptions, then.descriptions),
        ("labelled", first.labels, then.labels),
    ):
        different = (i for i, (a, b) in enumerate(zip(one or (), two or (), strict=False)) if a != b)
        if one is not None and two is not None and (index := next(different, None)) is not None:
            raise ModelBuildError(
                f"{pair}: evaluation sample {index} is {what} {one[index]!r} for '{first.name}' and {two[index]!r} for "
                f"'{then.name}'; {way_out}"
            )


def _pair(first: str, then: str) -> str:
    return f"'{first}' and '{then}' make no cascade"


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


def _answers(project: Project, model: ModelArtifact, path: Path, cache: str | Path | None) -> tuple[Answers, bool]:
    """Return what a model answers, and whether it had to run."""
    if cache is not None:
        project = replace(project, cache=Path(cache).absolute())
    key = _key(project, model)
    store = Store(project.cache / "passes")
    found, ran = store.get(key), False
    if found is None:
        ran = True
        with readable_errors(project), locked(project):
            found = store.make(key, lambda folder: _run(project, model, path, folder))
    return structure(json.loads((found / "answers.json").read_text("utf-8")), Answers), ran


def _key(project: Project, model: ModelArtifact) -> str:
    depends = [
        project.fingerprint,
        project.tools,
        platform.python_version_tuple()[:2],
        hash_folder(Path(__file__).parent / "build"),
        model.asset_hash,
    ]
    return f"answers-{project.recipe.name}-{hash_data(depends)[:32]}"


def _run(project: Project, model: ModelArtifact, path: Path, folder: Path) -> None:
    """Run a model in a process of its own, since data functions of two recipes may import files of the same name."""
    manifest = model.manifest
    # As the deployed functions do; see `Manifest.batch_dependent`.
    singly = manifest.batch_dependent and isinstance(manifest.inputs[0].shape[0], str)
    work = project.cache / "models" / f".{_key(project, model)}.building"
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir()
    try:
        more = {"model": str(path / "model.onnx"), "singly": singly}
        run_build(project.recipe.name, request(project, "answers") | more, work)
        shutil.copyfile(work / "answers.json", folder / "answers.json")
    finally:
        shutil.rmtree(work, ignore_errors=True)
