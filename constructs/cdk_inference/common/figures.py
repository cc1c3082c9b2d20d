"""Figures as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ERROR_METRICS = ("mean_absolute_error", "word_error_rate", "character_error_rate", "perplexity")
"""Metrics of which less is better."""


def size(count: float) -> str:
    """Return bytes as ``"5.0 MB"``, of a million bytes each."""
    if count < 1e6:  # noqa: PLR2004
        return f"{figure(count / 1e3)} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e8 else f"{count / 1e6:,.0f} MB"  # noqa: PLR2004


def figure(number: float) -> str:
    """Return a number with three digits that count, never in scientific notation where people would not."""
    magnitude = abs(number)
    if magnitude >= 100:  # noqa: PLR2004
        return f"{number:,.0f}"
    if magnitude >= 10:  # noqa: PLR2004
        return f"{number:.1f}"
    if magnitude >= 1:
        return f"{number:.2f}"
    return f"{number:.3g}"


def milliseconds(value: float) -> str:
    """Return a latency as ``"2.90 ms"``."""
    return f"{figure(value)} ms"


def percent(share: float) -> str:
    """Return ``"99.1 %"``; a share that is not whole never becomes ``"100 %"`` by rounding."""
    value = share * 100
    text = f"{value:.1f}".removesuffix(".0")
    if text in ("100", "0") and 0 < value < 100:  # noqa: PLR2004
        return "> 99.9 %" if text == "100" else "< 0.1 %"
    return f"{text} %"


def quality(metric: str, value: float) -> str:
    """Return a metric's value: shares as percent, the others with the digits that matter."""
    if metric.startswith("top"):
        return percent(value)
    if metric == "mean_absolute_error":
        return f"{value:.4g}"
    return f"{value:.4f}".removesuffix("0") if abs(value) < 100 else figure(value)  # noqa: PLR2004


def metric_name(metric: str) -> str:
    """Return what a metric is called in a sentence."""
    rank, _, kind = metric.removeprefix("top").partition("_")
    if metric.startswith("top") and rank.isdigit():
        kinds = {"agreement": "agreement", "sequence_agreement": "agreement of whole sequences"}
        return f"top-{rank} {kinds.get(kind, 'accuracy')}"
    names = {
        "cosine": "mean cosine similarity",
        "mean_absolute_error": "mean absolute error",
        "box_f1": "F1 score of boxes",
        "box_map": "mean average precision of boxes (COCO)",
        "box_map50": "mean average precision of boxes at half overlap",
        "mean_iou": "mean intersection over union",
    }
    return names.get(metric, metric.rpartition(":")[2].replace("_", " "))


def precision_name(precision: Mapping[str, Any]) -> str:
    """Return what a precision is called in a sentence."""
    kind = str(precision.get("kind", "?"))
    if kind == "weight_only":
        return f"{precision.get('bits', 8)}-bit weights"
    names = {"static_int8": "int8", "dynamic_int8": "dynamic int8"}
    return names.get(kind, kind.replace("_", " "))
