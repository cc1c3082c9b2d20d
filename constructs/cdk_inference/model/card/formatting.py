"""Figures and sentences for people."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.common.figures import metric_name, milliseconds, percent, precision_name, quality, size
from cdk_inference.model.card.comparison import counted, first_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.card.entry import Entry, Gate

SAME = 0.05  # ratios closer to one than this are called equal

STATUS = {
    "reference": "the reference",
    "shipped": "deployed",
    "passed": "passed the gate",
    "failed": "failed the gate",
    "slower": "slower than float32",
    "error": "could not be built",
}


@dataclass(frozen=True)
class Check:
    """One condition of the gate; `passed` is None where this build did not measure it."""

    name: str
    float32: str
    deployed: str
    limit: str
    passed: bool | None


def seconds(value: float) -> str:
    """Return a duration as ``"8.1 s"``."""
    return f"{value:.1f} s"


def samples(entry: Entry, count: int) -> str:
    """Return ``"118 images"``."""
    specs = entry.manifest.inputs
    image = len(specs) == 1 and image_layout(specs[0].dtype, specs[0].shape) is not None
    noun = "image" if image else "sample"
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def image_layout(dtype: str, shape: Sequence[str | int]) -> str | None:
    """Return ``"NHWC"`` or ``"NCHW"`` for a tensor that holds images, otherwise None."""
    if len(shape) != 4 or not (dtype == "uint8" or dtype.startswith("float")):  # noqa: PLR2004
        return None
    for layout, axis in (("NHWC", 3), ("NCHW", 1)):
        sides = [s for i, s in enumerate(shape) if i not in (0, axis)]
        if shape[axis] in (1, 3, 4) and all(isinstance(s, str) or s >= 8 for s in sides):  # noqa: PLR2004
            return layout
    return None


def passes(gate: Gate, value: float, limit: float) -> bool:
    """Return whether a value of the gate's metric keeps a limit."""
    return value >= limit if gate.higher_is_better else value <= limit


def checks(entry: Entry) -> list[Check]:
    """Return the conditions of the gate, the metric first."""
    gate = entry.report.gate
    sign = "≥" if gate.higher_is_better else "≤"
    show = functools.partial(quality, gate.metric)
    name = metric_name(gate.metric)
    result = [
        Check(
            name[0].upper() + name[1:],
            show(gate.baseline),
            show(gate.deployed),
            f"{sign} {show(gate.limit)}",
            passes(gate, gate.deployed, gate.limit),
        )
    ]
    if gate.floor is not None:
        kept = passes(gate, gate.deployed, gate.floor)
        result.append(
            Check(
                f"{name[0].upper()}{name[1:]}, absolute",
                show(gate.baseline),
                show(gate.deployed),
                f"{sign} {show(gate.floor)}",
                kept,
            )
        )
    if gate.max_latency_ms is not None:
        result.append(_budget("Latency", entry.baseline.latency_ms, entry.shipped.latency_ms, gate.max_latency_ms, 1))
    if gate.max_size_mb is not None:
        result.append(_budget("Size", entry.baseline.size_bytes, entry.manifest.size_bytes, gate.max_size_mb, 1e6))
    return result


def _budget(name: str, float32: float | None, deployed: float | None, limit: float, unit: float) -> Check:
    show = milliseconds if name == "Latency" else size
    return Check(
        name,
        "not measured" if float32 is None else show(float32),
        "not measured" if deployed is None else show(deployed),
        f"≤ {show(limit * unit)}",
        None if deployed is None else deployed <= limit * unit,
    )


def passed(entry: Entry) -> bool:
    """Return whether no condition of the gate failed."""
    return all(check.passed is not False for check in checks(entry))


def verdict(entry: Entry) -> str:
    """Return the result of the build in one sentence."""
    gate = entry.report.gate
    parts = [precision_name(entry.shipped.precision)]
    if entry.is_float:
        parts.append(_why_float(entry))
    else:
        parts.append(_gain(entry))
    answer = _answers(entry)
    outcome = f"gate {quality(gate.metric, gate.limit)}: {'passed' if passed(entry) else 'failed'}"
    return f"{', '.join([*parts, *([answer] if answer else [])])}; {outcome}"


def size_ratio(entry: Entry) -> float | None:
    """Return how many times smaller the deployed model is than float32."""
    before = entry.baseline.size_bytes
    return before / entry.manifest.size_bytes if before and entry.manifest.size_bytes else None


def times(ratio: float, more: str, less: str) -> str:
    """Return ``"3.7 times smaller"``, or the other word for a ratio below one."""
    return f"{ratio:.1f} times {more}" if ratio >= 1 else f"{1 / ratio:.1f} times {less}"


def _why_float(entry: Entry) -> str:
    tried = len(entry.report.candidates) - 1
    if not tried:
        return "the exported model as it is"
    if tried == 1:
        return "since the one other precision tried did not do better within the gate"
    return f"since none of the {tried} other precisions tried did better within the gate"


def _gain(entry: Entry) -> str:
    ratio, speedup = size_ratio(entry), entry.shipped.speedup
    smaller = None if ratio is None else times(ratio, "smaller", "larger")
    if ratio is not None and abs(ratio - 1) < SAME:
        smaller = "as large"
    faster = None if speedup is None else f"{speedup:.1f} times as fast"
    if speedup is not None and abs(speedup - 1) < SAME:
        faster = "as fast"
    than = "as float32" if faster or smaller == "as large" else "than float32"
    gains = " and ".join(g for g in (smaller, faster) if g)
    return f"{gains} {than}" if gains else "compared with float32"


def _answers(entry: Entry) -> str:
    gate = entry.report.gate
    value, before = quality(gate.metric, gate.deployed), quality(gate.metric, gate.baseline)
    of = f"{samples(entry, gate.samples)}{sure(entry)}"
    if gate.metric == "top1_agreement":
        return "" if entry.is_float else f"agrees with it on {value} of {of}"
    if gate.metric.endswith("_agreement") or gate.metric == "cosine":
        return "" if entry.is_float else f"{metric_name(gate.metric)} with it {value} on {of}"
    before = "" if entry.is_float else f" (float32: {before})"
    if gate.metric == "top1":
        return f"right on {value} of {of}{before}"
    return f"{metric_name(gate.metric)} {value} on {of}{before}"


def sure(entry: Entry) -> str:
    """Return the words for an evaluation that counts only what float32 is sure of."""
    evaluation = entry.report.recipe.get("evaluation")
    least = evaluation.get("min_confidence") if isinstance(evaluation, dict) else None
    return f" on which float32 is at least {percent(least)} sure" if isinstance(least, int | float) else ""


def left_out(entry: Entry) -> int:
    """Return how many evaluation samples the gate does not count."""
    return len(first_output(entry.float_outputs)) - int(counted(entry).sum()) if entry.float_outputs else 0
