"""The figures for people: a table in docs/performance.md, and a plot."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from benchmarks.harness import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "performance.md"
FIGURES = ROOT / "docs" / "benchmarks.json"
PLOT = ROOT / "docs" / "benchmarks.svg"

_TIMES = "\N{MULTIPLICATION SIGN}"
_TABLE = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- end of benchmarks -->)", re.DOTALL)


def read(path: Path = FIGURES) -> dict[str, Any]:
    """Return the figures of a run."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def machine(data: dict[str, Any]) -> str:
    """Return a sentence about the machine."""
    found = data["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    int8 = ", ".join(found["int8_instructions"]) or "no int8 instructions that we know of"
    note = "**From a quick run, which only shows that the benchmarks work.** " if data["quick"] else ""
    return (
        f"{note}Measured on {data['date']}: {found['cpu']}, {found['cpus']} cores, {found['memory_gib']} GiB, "
        f"{found['architecture']} ({int8}), {found['system']}, Python {found['python']}, {packages}. "
        "Page cache warm on both sides."
    )


def table(data: dict[str, Any]) -> str:
    """Return the figures as a table in Markdown, under a sentence about the machine."""
    lines = [machine(data), "", "| What | Against | Ours | Theirs | Ratio | Goal |", "|---|---|---|---|---|---|"]
    for figure in data["figures"]:
        ours, theirs = (_value(figure[side]["median"], figure["unit"]) for side in ("ours", "theirs"))
        lines.append(
            f"| {figure['what']} | {figure['rival']} | {ours} | {theirs} | {ratio(figure)} | {_goal(figure)} |"
        )
    return "\n".join(lines) + "\n"


def ratio(figure: dict[str, Any]) -> str:
    """Return a figure's ratio in words."""
    if figure["better"] == "growth":
        return f"{figure['ratio']:.2f}{_TIMES}"
    word = figure["better"] if figure["ratio"] >= 1 else ""  # nothing is 0.67 times faster
    return f"{figure['ratio']:.2f}{_TIMES} {word}".rstrip()


def _goal(figure: dict[str, Any]) -> str:
    if figure["goal"] is None:
        return ""
    limit = f"≤ {figure['goal']:g}{_TIMES}" if figure["better"] == "growth" else f"≥ {figure['goal']:g}{_TIMES}"
    return limit if figure["met"] else f"{limit}, missed"


def _value(value: float, unit: str) -> str:
    shown = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"  # noqa: PLR2004 (digits that say something)
    return f"{shown} {unit}".rstrip()


def written(page: str, data: dict[str, Any]) -> str:
    """Return the page with its table as the figures are now."""
    return _TABLE.sub(lambda match: match[1] + table(data) + match[2], page)


def plot(data: dict[str, Any], target: Path) -> None:
    """Draw the ratios with their goals.

    Parameters
    ----------
    data
        The figures.
    target
        SVG file; the same figures give the same bytes.
    """
    import matplotlib as mpl  # noqa: PLC0415 - reading the figures needs none

    mpl.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figures = data["figures"]
    names = [figure["name"].replace("_", " ") for figure in figures][::-1]
    # How many times better; growth is turned round, so that to the right is better everywhere.
    gains = [1 / f["ratio"] if f["better"] == "growth" else f["ratio"] for f in figures][::-1]
    goals = [None if f["goal"] is None else 1 / f["goal"] if f["better"] == "growth" else f["goal"] for f in figures]
    settings = {"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(settings):
        drawing, axes = plt.subplots(figsize=(9, 0.28 * len(names) + 1.2), layout="constrained")
        axes.barh(names, gains, color="#3b75af", height=0.7)
        for row, (gain, goal) in enumerate(zip(gains, goals[::-1], strict=True)):
            if goal is not None:
                axes.plot([goal, goal], [row - 0.4, row + 0.4], color="#d1495b", linewidth=2)
            axes.annotate(f"{gain:.2f}", (gain, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_xscale("log")
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xlabel("times better than the rival in the same run (logarithmic); red: the goal")
        axes.tick_params(labelsize=8)
        axes.margins(y=0.01)
        drawing.savefig(target, format="svg", metadata={"Date": None})
        plt.close(drawing)


def publish(data: dict[str, Any]) -> None:
    """Write the figures, the table and the plot into the docs."""
    FIGURES.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), data), encoding="utf-8")
    plot(data, PLOT)
