"""Prepares the texts and numbers that both forms of the card show."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.common import figures
from cdk_inference.common.escaping import clean
from cdk_inference.model.card import comparison, formatting, plots
from cdk_inference.model.card.samples import Sample, class_name, samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.model.card.entry import Candidate, Entry
    from cdk_inference.model.card.plots import Canvas, Drawing, Shape
    from cdk_inference.model.records.manifest import GraphFacts

_MOST_DIFFERENCES = 12
_NOT_MEASURED = "\N{EN DASH}"


@dataclass(frozen=True)
class Tile:
    """One of the figures at the top."""

    name: str
    value: str
    before: str


@dataclass(frozen=True)
class Row:
    """A candidate in the table; shares in [0, 1] of the largest are drawn as bars."""

    number: int
    name: str
    shape: Shape
    status: str
    reason: str
    quality: str
    cosine: str
    size: str
    size_share: float | None
    latency: str
    latency_share: float | None
    speedup: str
    shipped: bool
    failed: bool


@dataclass(frozen=True)
class Plot:
    """A plot in two sizes, with what it says in formatting."""

    wide: Drawing
    narrow: Drawing
    alt: str
    square: bool = False


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix; cells hold (count, share of the row, whether both answers are the same)."""

    names: list[str]
    cells: list[list[tuple[int, float, bool]]]
    pooled: int
    pooled_differences: int
    samples: str
    differing: list[tuple[str, str, int]]
    more: int


@dataclass(frozen=True)
class Pass:
    """A pass of the build."""

    name: str
    time: str
    share: float
    cached: bool


@dataclass(frozen=True)
class Explained:
    """A way to explain answers, and how faithful it was."""

    method: str
    baseline: str
    samples: str
    deletion: str
    insertion: str
    random: str
    runs: str


@dataclass(frozen=True)
class Page:
    """Everything on a card."""

    entry: Entry
    passed: bool
    verdict: str
    tiles: list[Tile]
    facts: list[tuple[str, str]]
    licence: str
    origin: str
    candidates: list[Row]
    candidates_note: str
    trade_off: Plot | None
    checks: list[formatting.Check]
    gate_note: str
    task: comparison.Task | None
    against: str
    matrix: Matrix | None
    plot: Plot | None
    plot_note: str
    samples: list[Sample]
    boxes: bool
    passes: list[Pass]
    passes_total: str
    versions: list[tuple[str, str]]
    host: list[tuple[str, str]]
    recipe: dict[str, Any]
    recipe_json: str
    metric: str
    explanations: list[Explained]
    real_time: tuple[str, str] | None


def page(entry: Entry) -> Page:
    """Prepare a card."""
    task = comparison.task(entry)
    rows = _rows(entry)
    plot, note = _plot(entry, task)
    provenance = {k: str(v) for k, v in entry.manifest.provenance.items()}
    return Page(
        entry=entry,
        passed=formatting.passed(entry),
        verdict=formatting.verdict(entry),
        tiles=_tiles(entry),
        facts=_facts(entry, provenance),
        licence=provenance.get("license", ""),
        origin=provenance.get("origin", ""),
        candidates=rows,
        candidates_note=_candidates_note(entry),
        trade_off=_trade_off(entry, rows),
        checks=formatting.checks(entry),
        gate_note=_gate_note(entry),
        task=task,
        against=_against(entry, task),
        matrix=_matrix(entry) if task == "classification" else None,
        plot=plot,
        plot_note=note,
        samples=samples(entry, task),
        boxes=bool(entry.boxes),
        passes=_passes(entry),
        passes_total=formatting.seconds(sum(_number(p.get("seconds")) for p in entry.report.passes)),
        versions=sorted((k.removeprefix("version:"), v) for k, v in provenance.items() if k.startswith("version:")),
        host=[(_label(k), _scalar(v)) for k, v in entry.report.host.items()],
        recipe=entry.report.recipe,
        recipe_json=json.dumps(entry.report.recipe, indent=2, ensure_ascii=False, default=str),
        metric=figures.metric_name(entry.report.gate.metric),
        explanations=_explanations(entry),
        real_time=_real_time(entry),
    )


def _explanations(entry: Entry) -> list[Explained]:
    return [
        Explained(
            method=clean(each.method.replace("_", " ")),
            baseline=clean(each.baseline),
            samples=formatting.samples(entry, each.samples),
            deletion=f"{each.deletion:.3f}",
            insertion=f"{each.insertion:.3f}",
            random=f"{each.random:.3f}",
            runs=figures.figure(each.runs),
        )
        for each in entry.explanations
    ]


def _real_time(entry: Entry) -> tuple[str, str] | None:
    """Return the real-time factors of float32 and of what is deployed; None if it is not sound, or was not timed."""
    sound = entry.manifest.sound_seconds
    before, after = entry.baseline.latency_ms, entry.shipped.latency_ms
    if not sound or before is None or after is None:
        return None
    return figures.figure(before / 1000 / sound), figures.figure(after / 1000 / sound)


def _tiles(entry: Entry) -> list[Tile]:
    gate = entry.report.gate
    before = "" if entry.is_float else "float32 "
    label = figures.metric_name(gate.metric)
    tiles = [
        Tile(
            label[0].upper() + label[1:],
            figures.quality(gate.metric, gate.deployed),
            f"gate {figures.quality(gate.metric, gate.limit)}",
        ),
        Tile(
            "Size",
            figures.size(entry.manifest.size_bytes),
            before and f"{before}{figures.size(entry.baseline.size_bytes or 0)}",
        ),
    ]
    if entry.shipped.latency_ms is not None:
        old = entry.baseline.latency_ms
        compared = f"{before}{figures.milliseconds(old)}" if before and old is not None else "one sample, one thread"
        tiles.append(Tile("Latency", figures.milliseconds(entry.shipped.latency_ms), compared))
    if factors := _real_time(entry):
        compared = f"{before}{factors[0]}" if before else f"{entry.manifest.sound_seconds:.1f} s of sound"
        tiles.append(Tile("Real-time factor", factors[1], compared))
    memory = entry.report.peak_memory_mb or {}
    if "deployed" in memory:
        compared = f"{before}{memory['float32']:.0f} MB" if before and "float32" in memory else ""
        tiles.append(Tile("Peak memory", f"{memory['deployed']:.0f} MB", compared))
    return tiles


def _facts(entry: Entry, provenance: dict[str, str]) -> list[tuple[str, str]]:
    recipe = entry.report.recipe
    parity = entry.report.parity
    facts = [
        ("Version", entry.manifest.model_version),
        ("Precision", entry.shipped.name),
        ("Architecture", entry.report.architecture),
        ("Source", _source(recipe)),
        ("ONNX operator set", str(entry.manifest.opset)),
        *((f"Graph {name}", _graph(graph)) for name, graph in entry.manifest.graphs.items()),
    ]
    if "exported" in parity:
        facts.append(("Export", f"cosine {figures.quality('cosine', parity['exported'])} with the original"))
    if "recipe" in provenance:
        facts.append(("Recipe hash", provenance["recipe"][:12]))
    return [(name, value) for name, value in facts if value]


def _graph(graph: GraphFacts) -> str:
    precision = graph.precision.replace("_", " ")
    return f"{graph.architecture}, {precision}, {graph.size_bytes / 1e6:.2f} MB"


def _source(recipe: dict[str, Any]) -> str:
    source = recipe.get("source", recipe.get("factory"))
    if not isinstance(source, dict):
        return "" if source is None else _scalar(source)
    if source.get("kind") == "graphs":
        return f"{', '.join(source['graphs'])}; {source['driver']['kind']}"
    parts = [str(source.get("kind", "")).replace("_", " ")]
    for name, value in source.items():
        if name == "kind" or value in (None, [], {}):
            continue
        place = value
        if isinstance(value, dict):
            place = next((value[key] for key in ("package", "repo", "url") if key in value), value)
        parts.append(
            _scalar(place) if name in ("factory", "file") else f"{name.replace('_', ' ')} from {_scalar(place)}"
        )
    return ", ".join(part for part in parts if part)


def _shape(entry: Entry, candidate: Candidate) -> Shape:
    if candidate.status == "shipped":
        return "shipped"
    if candidate is entry.baseline:
        return "reference"
    shapes: dict[str, Shape] = {"passed": "passed", "failed": "failed", "error": "failed"}
    return shapes.get(candidate.status, "other")


def _rows(entry: Entry) -> list[Row]:
    gate = entry.report.gate
    sizes = [c.size_bytes for c in entry.report.candidates if c.size_bytes]
    latencies = [c.latency_ms for c in entry.report.candidates if c.latency_ms]
    rows = []
    for number, candidate in enumerate(entry.report.candidates, 1):
        status = formatting.STATUS.get(candidate.status, candidate.status)
        rows.append(
            Row(
                number=number,
                name=candidate.name,
                shape=_shape(entry, candidate),
                status=status,
                reason=candidate.reason or "",
                quality=_or_dash(candidate.quality, lambda v: figures.quality(gate.metric, v)),
                cosine=_or_dash(candidate.cosine, lambda v: figures.quality("cosine", v)),
                size=_or_dash(candidate.size_bytes, figures.size),
                size_share=candidate.size_bytes / max(sizes) if candidate.size_bytes else None,
                latency=_or_dash(candidate.latency_ms, figures.milliseconds),
                latency_share=candidate.latency_ms / max(latencies) if candidate.latency_ms else None,
                speedup=_or_dash(candidate.speedup, lambda v: f"{figures.figure(v)} \N{MULTIPLICATION SIGN}"),
                shipped=candidate.status == "shipped",
                failed=candidate.status in ("failed", "error"),
            )
        )
    return rows


def _candidates_note(entry: Entry) -> str:
    host = entry.report.host
    timed = any(c.latency_ms is not None for c in entry.report.candidates)
    if entry.report.locked:
        figures = "; the figures are those of the search that wrote it" if timed else ", and nothing was timed again"
        return f"The lock file beside the recipe decided on the precision{figures}."
    decided = "" if entry.report.auto else "The recipe names the precision. "
    if not timed:
        return f"{decided}This build timed nothing."
    where = f" on {_scalar(host['cpu'])}" if host.get("cpu") else ""
    threads = f", {host['threads']} thread{'' if host['threads'] == 1 else 's'}" if host.get("threads") else ""
    runtime = f", onnxruntime {_scalar(host['onnxruntime'])}" if host.get("onnxruntime") else ""
    return f"{decided}Latency is of one sample{where}{threads}{runtime}, measured alternately with float32."


def _trade_off(entry: Entry, rows: list[Row]) -> Plot | None:
    gate = entry.report.gate
    timed = all(c.latency_ms is not None for c in (entry.baseline, entry.shipped))
    points = []
    for row, candidate in zip(rows, entry.report.candidates, strict=True):
        cost = candidate.latency_ms if timed else candidate.size_bytes and candidate.size_bytes / 1e6
        if candidate.quality is None or not cost:
            continue
        name = figures.metric_name(gate.metric)
        tip = f"{row.name}: {row.status}; {name} {row.quality}, {row.size}, {row.latency}"
        points.append(
            plots.Point(row.number, row.name, row.shape, cost, candidate.quality, candidate.size_bytes or 1, tip)
        )
    if len(points) < 2:  # noqa: PLR2004  # one point is not a trade-off
        return None
    unit = "ms for one sample" if timed else "MB"
    name = figures.metric_name(gate.metric)
    better = "higher is better" if gate.higher_is_better else "lower is better, and drawn higher"

    def draw(canvas: Canvas) -> Drawing:
        return plots.trade_off(
            points,
            canvas,
            cost_label=f"← {'faster' if timed else 'smaller'}, {unit}",
            quality_label=f"{name}, {better}" if canvas.names else name,
            limit=gate.limit,
            limit_label=f"gate {figures.quality(gate.metric, gate.limit)}",
            higher_is_better=gate.higher_is_better,
            show_quality=lambda value: _tick(gate.metric, value),
        )

    alt = (
        f"Plot of {name} against {'latency' if timed else 'size'}. "
        + " ".join(f"{p.number}: {p.tip}." for p in points)
        + f" The gate is at {figures.quality(gate.metric, gate.limit)}."
    )
    return Plot(draw(plots.WIDE), draw(plots.NARROW), alt)


def _tick(metric: str, value: float) -> str:
    if not metric.startswith("top"):
        return f"{value:.4g}"
    return f"{value * 100:.4g} %" if -1e-9 <= value <= 1 + 1e-9 else ""  # noqa: PLR2004


def _gate_note(entry: Entry) -> str:
    gate = entry.report.gate
    evaluation = entry.report.recipe.get("evaluation")
    drop = evaluation.get("max_drop") if isinstance(evaluation, dict) else None
    allowed = ""
    if isinstance(drop, int | float):
        points = f"{drop:g}"
        if gate.metric.startswith("top"):
            points = f"{drop * 100:g} percentage point{'' if drop == 0.01 else 's'}"  # noqa: PLR2004
        allowed = f" It may be worse than float32 by {points}."
    out = formatting.left_out(entry)
    unsure = f" {out} less certain ones do not count." if out else ""
    holds = f" The figures hold on {' and '.join(entry.manifest.exact_on)}."
    return f"Evaluated on {formatting.samples(entry, gate.samples)}{formatting.sure(entry)}.{unsure}{allowed}{holds}"


def _against(entry: Entry, task: comparison.Task | None) -> str:
    labelled = (task == "classification" and comparison.class_labels(entry) is not None) or (
        task == "regression" and comparison.regression(entry)[2] == "label"
    )
    return "labels" if labelled else "float32"


def _matrix(entry: Entry) -> Matrix | None:
    counted = comparison.confusion(entry)
    if counted is None:
        return None
    totals = counted.counts.sum(axis=1, keepdims=True)
    shares = counted.counts / np.where(totals == 0, 1, totals)
    names = [class_name(entry, c) for c in counted.classes]
    if counted.pooled:
        names.append(f"{counted.pooled} others")
    return Matrix(
        names=names,
        cells=[
            [(int(n), float(s), i == j) for j, (n, s) in enumerate(zip(row, share, strict=True))]
            for i, (row, share) in enumerate(zip(counted.counts, shares, strict=True))
        ],
        pooled=counted.pooled,
        pooled_differences=counted.pooled_differences,
        samples=formatting.samples(entry, counted.samples),
        differing=[(class_name(entry, a), class_name(entry, b), n) for a, b, n in counted.differing][
            :_MOST_DIFFERENCES
        ],
        more=max(0, len(counted.differing) - _MOST_DIFFERENCES),
    )


def _plot(entry: Entry, task: comparison.Task | None) -> tuple[Plot | None, str]:
    if task == "similarity":
        values = comparison.cosines(entry)
        if not len(values):
            return None, ""
        mean, worst = float(values.mean()), float(values.min())
        low = float(np.quantile(values, 0.05))
        show = functools.partial(figures.quality, "cosine")
        note = (
            f"Cosine similarity of each sample's float32 and deployed outputs. The mean is {show(mean)}, the lowest "
            f"{show(worst)}; one sample in twenty is below {show(low)}."
        )

        def bars(canvas: Canvas) -> Drawing:
            return plots.histogram(
                values,
                canvas,
                label="cosine similarity with float32",
                mean=mean,
                mean_label=f"mean {show(mean)}",
                unit="samples",
            )

        return Plot(bars(plots.WIDE), bars(plots.NARROW), f"Histogram. {note}"), note
    if task == "regression":
        expected, deployed, against = comparison.regression(entry)
        if not expected.size:
            return None, ""
        error = np.abs(expected - deployed)
        what = "label" if against == "label" else "float32's value"
        note = (
            f"The deployed model's values against the {what}s; on the line they are equal. "
            f"The mean error is {figures.figure(float(error.mean()))}, "
            f"the largest {figures.figure(float(error.max()))}."
        ).replace("the float32's values", "float32's")

        def dots(canvas: Canvas) -> Drawing:
            return plots.scatter(expected, deployed, canvas, expected_label=what, deployed_label="deployed value")

        return Plot(dots(plots.SQUARE), dots(plots.NARROW), f"Scatter plot. {note}", square=True), note
    return None, ""


def _passes(entry: Entry) -> list[Pass]:
    times = [_number(p.get("seconds")) for p in entry.report.passes]
    longest = max([*times, 1e-9])
    return [
        Pass(_scalar(p.get("pass", "?")), formatting.seconds(t), t / longest, p.get("cached") is True)
        for p, t in zip(entry.report.passes, times, strict=True)
    ]


def _or_dash(value: float | None, show: Callable[[float], str]) -> str:
    return _NOT_MEASURED if value is None else show(value)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _label(name: str) -> str:
    return {"cpu": "CPU", "onnxruntime": "onnxruntime"}.get(name, name.replace("_", " ").capitalize())


def _scalar(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(_scalar(v) for v in value.values() if v is not None)
    if isinstance(value, list | tuple):
        return ", ".join(_scalar(v) for v in value)
    return str(value)
