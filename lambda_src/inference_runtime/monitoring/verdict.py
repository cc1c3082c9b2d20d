"""Judges the counts of a window: whether they may come from where the baseline comes from."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

from inference_runtime.monitoring.two_samples import SMALLEST_P, chi_squared, holm, merged, p_value, stability_index

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MARGIN = 0.8
"""Share of the false-alarm rate that is used: far in the tail, probabilities are up to a tenth too small."""

DRIFT, NO_DRIFT, TOO_FEW = "DRIFT", "NO_DRIFT", "TOO_FEW_OBJECTS"


def judge(
    counts: Mapping[str, int], statistics: Sequence[Mapping[str, Any]], *, false_alarm_rate: float, min_objects: int
) -> dict[str, Any]:
    """Return the verdict about a window, with its evidence.

    Parameters
    ----------
    counts
        The sums of `DriftCounter`, by attribute.
    statistics
        `{"name", "attribute", "baseline"}`: the name, what its attributes begin with, and the baseline's counts by bin.
        The statistic ``n_escalated`` has the objects that were not escalated first.
    false_alarm_rate
        How likely a window without drift is called one with drift, at most, whatever the number of statistics.
    min_objects
        A window with fewer objects tells nothing.

    Returns
    -------
    dict
        `verdict`, `objects`, `rejected`, `failed` and `escalated`. With enough objects, `drift` is the most
        evidence that a statistic has, as a share of the limit. From 1 on it is drift. `statistics` has all
        of them, most evidence first.
    """
    totals = {name: counts.get(f"n_{name}", 0) for name in ("objects", "rejected", "failed", "escalated")}
    if totals["objects"] < min_objects or not statistics:
        return {"verdict": TOO_FEW, **totals}
    found = [_compared(counts, statistic, totals) for statistic in statistics]
    rate = _MARGIN * false_alarm_rate
    level = rate / len(found)
    p_values = [one["p_value"] for one in found]
    for one, rejected in zip(found, holm(p_values, rate), strict=True):
        one["drifted"] = rejected
        one["drift"] = round(log(max(SMALLEST_P, one["p_value"])) / log(level), 4)
    found.sort(key=lambda one: -one["drift"])
    verdict = DRIFT if found[0]["drifted"] else NO_DRIFT
    return {"verdict": verdict, "drift": found[0]["drift"], **totals, "statistics": found}


def _compared(counts: Mapping[str, int], statistic: Mapping[str, Any], totals: Mapping[str, int]) -> dict[str, Any]:
    baseline, attribute = statistic["baseline"], statistic["attribute"]
    if attribute == "n_escalated":
        window = [totals["objects"] - totals["escalated"], totals["escalated"]]
    else:
        window = [counts.get(f"{attribute}_{number}", 0) for number in range(len(baseline))]
    bins = merged(window, baseline)
    return {
        "name": statistic["name"],
        "p_value": p_value(bins),
        "chi_squared": round(chi_squared(bins), 4) if bins else 0.0,
        "bins": len(bins),
        "stability_index": round(stability_index(window, baseline), 4),
        "window": window,
        "baseline": list(baseline),
    }
