"""Whether a release goes on, waits or ends."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference_runtime.releases.evidence import log_evidence, share_of_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ABORT, ADVANCE, HOLD, END = "abort", "advance", "hold", "end"

PAIRS = "pairs"
"""The record of what both models answered."""

_MEANT = {
    "errors": "the candidate fails or rejects objects more often than the stable model",
    "latency": "the candidate is slower than the stable model on the same objects",
    "disagreement": "the candidate's answers agree too little with the stable model's",
}


@dataclass(frozen=True)
class Plan:
    """A release as it was deployed.

    Parameters
    ----------
    steps
        The candidate's shares, in percent; none for a shadow.
    bake_ms
        Milliseconds that each step lasts at least.
    rules
        The rules that abort it.
    confidence
        The rules together abort a candidate that meets them with at most the probability that is missing to 1.
    min_samples
        Results that a rule needs.
    """

    steps: Sequence[float]
    bake_ms: float
    rules: Sequence[Mapping[str, Any]]
    confidence: float
    min_samples: int

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read a plan from JSON."""
        return cls(**json.loads(text))

    @property
    def alarms(self) -> list[str]:
        """The names of the alarms that abort it."""
        return [rule["name"] for rule in self.rules if rule["rule"] == "alarm"]


@dataclass(frozen=True)
class Records:
    """The records of a release in the table."""

    status: str = ""
    step: int = 0
    changed_at: float = math.inf
    counts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    share: float = 0.0

    @classmethod
    def parse(cls, items: Sequence[Mapping[str, Any]]) -> Records:
        """Read the records from DynamoDB's items."""
        by_name = {item["record"]["S"]: item for item in items}
        state = by_name.pop("state", {})
        counts = {
            name: {key: float(value["N"]) for key, value in item.items() if "N" in value}
            for name, item in by_name.items()
        }
        return cls(
            status=state.get("status", {}).get("S", ""),
            step=int(state.get("step", {}).get("N", 0)),
            changed_at=float(state.get("changed_at", {}).get("N", math.inf)),
            counts=counts,
            share=float(state.get("share", {}).get("N", 0)),
        )


def judge(plan: Plan, records: Records, alarms: Mapping[str, str], *, now: float) -> dict[str, Any]:
    """Say what follows from what was counted.

    Too few results never abort, and neither do results that are missing. They do not advance a release either.

    Parameters
    ----------
    plan
        The release as it was deployed.
    records
        The counts so far.
    alarms
        The states of the alarms that exist, by name.
    now
        Milliseconds since the epoch, by the clock that `Records.changed_at` is of.

    Returns
    -------
    dict
        `decision`, one of ``abort``, ``advance``, ``hold`` and ``end``; `reason`; `step`, the one that was judged; and
        `evidence`, by rule.
    """
    if records.status != "RUNNING":
        return {"decision": END, "reason": f"the release is {records.status or 'not there'}", "step": records.step}
    found = {name: _evidence(rule, plan, records) for name, rule in _statistical(plan).items()}
    said = {"step": records.step, "evidence": found | ({"alarms": dict(alarms)} if plan.alarms else {})}
    ringing = [name for name in plan.alarms if alarms.get(name) == "ALARM"]
    if ringing:
        return {"decision": ABORT, "reason": f"the alarm {ringing[0]} is in ALARM", **said}
    for name, each in found.items():
        if each["fires"]:
            return {"decision": ABORT, "reason": f"{_MEANT[name]}: {each['figures']}", **said}
    few = next((name for name, each in found.items() if each["samples"] < plan.min_samples), None)
    return {**_go_on(plan, records, alarms, few, now), **said}


def share_after(plan: Plan, records: Records, decision: str) -> float | None:
    """Return the candidate's share in percent once a decision is carried out; None of a shadow, which has none."""
    if not plan.steps:
        return None
    if decision == ABORT:
        return 0.0
    return float([*plan.steps, 100][records.step + 1]) if decision == ADVANCE else records.share


def _go_on(plan: Plan, records: Records, alarms: Mapping[str, str], few: str | None, now: float) -> dict[str, str]:
    if not plan.steps:
        return {"decision": HOLD, "reason": "a shadow has no steps"}
    missing = [name for name in plan.alarms if name not in alarms]
    if missing:
        return {"decision": HOLD, "reason": f"the alarm {missing[0]} does not exist"}
    counted = records.counts.get(f"step-{records.step}", {})
    answered = counted.get("candidate_ok", 0) + counted.get("candidate_errors", 0)
    if answered < plan.min_samples:
        reason = f"the candidate has {answered:g} results in this step, {plan.min_samples} are needed"
        return {"decision": HOLD, "reason": reason}
    if few is not None:
        return {"decision": HOLD, "reason": f"the rule '{few}' has too few results, {plan.min_samples} are needed"}
    left = records.changed_at + plan.bake_ms - now
    if left > 0:
        return {"decision": HOLD, "reason": f"the step bakes for {left / 1000:.0f} more seconds"}
    return {"decision": ADVANCE, "reason": f"nothing speaks against the candidate after {answered:g} results"}


def _statistical(plan: Plan) -> dict[str, Mapping[str, Any]]:
    return {rule["rule"]: rule for rule in plan.rules if rule["rule"] in _MEANT}


def _evidence(rule: Mapping[str, Any], plan: Plan, records: Records) -> dict[str, Any]:
    """Return how strongly results speak against the candidate, and whether that is enough to abort."""
    logarithm, samples, figures = _RULES[rule["rule"]](rule, plan, records)
    needed = len(_statistical(plan)) / (1 - plan.confidence)  # of each rule, so that all together keep the promise
    return {
        "fires": samples >= plan.min_samples and logarithm >= math.log(needed),
        "samples": samples,
        "figures": figures,
        "log10_evidence": round(logarithm / math.log(10), 2),
        "log10_needed": round(math.log10(needed), 2),
    }


def _errors(rule: Mapping[str, Any], plan: Plan, records: Records) -> tuple[float, float, str]:
    """Compare the arms' errors, step by step: the candidate's share of the objects is another in each.

    If the stable model's results come later than the candidate's, so do its errors. The share of the results that are
    there counts then.
    """
    logarithm = 0.0
    sums: dict[str, float] = {}
    for step, share in enumerate(plan.steps):
        counts = records.counts.get(f"step-{step}", {})
        bad, good = counts.get("candidate_errors", 0), counts.get("stable_errors", 0)
        answered, others = bad + counts.get("candidate_ok", 0), good + counts.get("stable_ok", 0)
        weight = max(share / 100, answered / (answered + others) if answered else 0)
        logarithm += log_evidence(bad, bad + good, share_of_errors(weight, rule["times"]))
        for name, count in counts.items():
            sums[name] = sums.get(name, 0) + count
    pairs = records.counts.get(PAIRS, {})
    bad, good = pairs.get("candidate_errors", 0), pairs.get("stable_errors", 0)
    logarithm += log_evidence(bad, bad + good, share_of_errors(0.5, rule["times"]))
    of = {
        arm: (sums.get(f"{arm}_errors", 0), sums.get(f"{arm}_errors", 0) + sums.get(f"{arm}_ok", 0))
        for arm in ("candidate", "stable")
    }
    figures = ", ".join(f"{arm} {failed:g} of {total:g}" for arm, (failed, total) in of.items())
    if bad or good:
        figures += f"; of objects that both answered, only the candidate {bad:g}, only the stable model {good:g}"
    return logarithm, of["candidate"][1] + pairs.get("objects", 0), figures


def _latency(rule: Mapping[str, Any], plan: Plan, records: Records) -> tuple[float, float, str]:  # noqa: ARG001
    """Count the batches on which the candidate took so many times as long: half of them would be by chance."""
    pairs = records.counts.get(PAIRS, {})
    slow, runs = pairs.get("slow", 0), pairs.get("timed", 0)
    figures = f"over {rule['times']:g} times as long on {slow:g} of {runs:g} batches"
    return log_evidence(slow, runs, 0.5), runs, figures


def _disagreement(rule: Mapping[str, Any], plan: Plan, records: Records) -> tuple[float, float, str]:  # noqa: ARG001
    pairs = records.counts.get(PAIRS, {})
    apart, total = pairs.get("disagreement", 0), pairs.get("answered", 0)
    allowed = rule["agreement"]
    agreed = f"{1 - apart / total:.4f}" if total else "unknown"
    figures = f"{rule['metric']} {agreed} over {total:g} objects, and the gate is {allowed:g}"
    return log_evidence(min(apart, total), total, 1 - allowed), total, figures


_RULES = {"errors": _errors, "latency": _latency, "disagreement": _disagreement}
