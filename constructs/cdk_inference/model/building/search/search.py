"""Finds the precision that ships: the best that passes the gate, and float32 if nothing is better."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cdk_inference.errors import ModelBuildError, ModelGateError
from cdk_inference.model.building.evaluation.measure import TIE
from cdk_inference.model.recipe.precision import Float32, describe, needs_calibration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.building.search.trials import Trial, Trials
    from cdk_inference.model.recipe.precision import Auto, Pinned
    from cdk_inference.model.records.lock import Candidate

SIZE_TIE = 0.05
"""Sizes that differ by less than this share are equal."""

NARROW = 3.0
"""A candidate that misses the gate by at most this many times what the gate allows is worth mixing with float."""


@dataclass(frozen=True)
class Outcome:
    """The result of a search.

    Parameters
    ----------
    best
        The trial that ships.
    candidates
        All that was tried, float32 first.
    """

    best: Trial
    candidates: tuple[Candidate, ...]


def search(trials: Trials, policy: Auto) -> Outcome:
    """Try what suits the model, and choose.

    Raises
    ------
    ModelBuildError
        If the quality of float32 cannot be measured.
    ModelGateError
        If nothing passes, with every candidate's figures and the nearest miss.
    """
    reference = trials.run(Float32())
    if reference.metric is None:
        raise ModelBuildError(reference.failure)
    tried = [reference, *(trials.run(p) for p in trials.conversions.candidates(policy))]
    tried = _aligned([*tried, *_mixed(trials, tried)])
    eligible = [t for t in tried if not t.failure and not (t.latency and t.latency.slower)]
    if not eligible:
        raise ModelGateError(_nothing_passes(tried))
    best = choose(eligible, policy.objective)
    if unclear := [describe(t.precision) for t in eligible if _noise(t)]:
        trials.passes.event({"notice": f"this machine is too busy to tell the speed of {' and of '.join(unclear)}"})
    return Outcome(best, tuple(_record(t, best) for t in tried))


def pinned(trials: Trials, precision: Pinned) -> Outcome:
    """Try one precision, which ships if it passes.

    Raises
    ------
    ModelBuildError
        If its quality cannot be measured.
    ModelGateError
        If it does not, with its figures.
    """
    reference = trials.run(Float32())
    trial = reference if isinstance(precision, Float32) else trials.run(precision)
    if trial.metric is None:
        raise ModelBuildError(reference.failure or trial.failure)
    if trial.failure:
        hint = "loosen the limit that it misses, or give a better model"
        if not isinstance(precision, Float32):
            hint = "allow a larger max_drop, or set precision=Auto(), which looks for one that passes"
        if needs_calibration(precision):
            hint = f"calibrate on data closer to what the model will see, {hint}"
        raise ModelGateError(
            f"precision must be one that passes the gate, got {describe(precision)}: {trial.failure} "
            f"(float32 has {trial.metric.baseline:.4g}, max_drop={trials.recipe.evaluation.max_drop:g}); {hint}"
        )
    tried = _aligned([reference] if trial is reference else [reference, trial])
    return Outcome(tried[-1], tuple(_record(t, tried[-1], only=True) for t in tried))


def compare(trials: Trials, policy: Auto) -> tuple[Candidate, ...]:
    """Try every precision there is, whatever the architecture, and choose nothing."""
    precisions: list[Pinned] = [Float32(), *trials.conversions.candidates(policy)]
    precisions += [p for p in trials.conversions.every() if p not in precisions]
    return tuple(_record(trial, None) for trial in _aligned([trials.run(p) for p in precisions]))


def choose(eligible: Sequence[Trial], objective: str) -> Trial:
    """Return the best of what may ship.

    The objective decides, then the other of latency and size. The rest are as good: float32 then loses nothing, or
    the first of those that are most like it. A latency decides only if it is better by more than its noise.
    """
    best = list(eligible)
    for narrow in (_fastest, _smallest) if objective == "latency" else (_smallest, _fastest):
        best = narrow(best)
    return max(best, key=lambda t: (isinstance(t.precision, Float32), t.cosine or 0.0))


def _fastest(trials: Sequence[Trial]) -> list[Trial]:
    """Return all but those that are slower than another, whatever the noise, by more than a tie."""
    bar = max(_bounds(t)[0] for t in trials)
    return [t for t in trials if _bounds(t)[1] * (1.0 + TIE) >= bar]


def _smallest(trials: Sequence[Trial]) -> list[Trial]:
    bar = min(t.size for t in trials) * (1.0 + SIZE_TIE)
    return [t for t in trials if t.size <= bar]


def _bounds(trial: Trial) -> tuple[float, float]:
    """Return between what the speedup lies; zeros if it is not known."""
    return (trial.latency.low, trial.latency.high) if trial.latency else (0.0, 0.0)


def _mixed(trials: Trials, tried: Sequence[Trial]) -> list[Trial]:
    """Make the most harmful parts of the best narrow failure more exact, until it passes."""
    passing = [_bounds(t)[0] for t in tried if not t.failure]
    worthy = [
        t
        for t in tried
        if t.metric is not None
        and t.failure
        and not isinstance(t.precision, Float32)
        and t.misses <= NARROW
        and _bounds(t)[0] > max([1.0, *passing]) * (1.0 + TIE)
    ]
    if not worthy:
        return []
    nearly = max(worthy, key=lambda t: t.speedup)
    found: list[Trial] = []
    for softer in trials.conversions.softened(nearly.precision, nearly.ranges):
        found.append(trials.run(softer))
        if not found[-1].failure:
            break
    return found


def _aligned(tried: Sequence[Trial]) -> list[Trial]:
    """Return the trials with latencies that compare, although the machine was not as busy during each of them.

    The gain over float32 is what alternated runs tell. So latencies are the least disturbed one of float32, divided
    by the gain.
    """
    measured = [t.latency.float32_ms for t in tried if t.latency]
    if not measured:
        return list(tried)
    one = min(measured)
    return [
        replace(t, latency=replace(t.latency, float32_ms=one, ms=round(one / t.speedup, 3))) if t.latency else t
        for t in tried
    ]


def _record(trial: Trial, best: Trial | None, *, only: bool = False) -> Candidate:
    if trial is best:
        float32 = isinstance(trial.precision, Float32) and not only
        reason = "nothing that passes is faster, or smaller and as fast" if float32 else "" if only else _noise(trial)
        return trial.candidate("shipped", reason)
    if trial.metric is None:
        return trial.candidate("error", trial.failure)
    if trial.failure:
        return trial.candidate("failed", trial.failure)
    if isinstance(trial.precision, Float32):
        return trial.candidate("reference", "")
    if trial.latency and trial.latency.slower:
        return trial.candidate("slower", f"takes {1 / trial.speedup:.2f} times as long as float32")
    return trial.candidate("passed", "" if only else _noise(trial))


def _noise(trial: Trial) -> str:
    """Say that a busy machine did not let a speed be told; empty if it did."""
    if trial.latency is None or trial.latency.clear:
        return ""
    low, high = _bounds(trial)
    return (
        f"this machine is too busy to tell its speed, {low:.2f} to {high:.2f} times that of float32, so that the size "
        "decides; build with --search on a quiet machine"
    )


def _nothing_passes(tried: Sequence[Trial]) -> str:
    figures = [f"{describe(t.precision)}: {t.failure or 'slower than float32'}" for t in tried]
    nearest = min(tried, key=lambda t: t.misses)
    return (
        f"a candidate must pass the gate, got {' | '.join(figures)}; "
        f"loosen the limit that the nearest, {describe(nearest.precision)}, misses, or give a better model"
    )
