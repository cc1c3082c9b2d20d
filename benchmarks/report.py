"""The figures for people: tables in docs/operate/performance.md, and a plot."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import plot
from benchmarks.harness import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = ROOT / "docs" / "operate" / "performance.md"
FIGURES = ROOT / "docs" / "operate" / "benchmarks.json"
PLOT = ROOT / "docs" / "images" / "benchmarks.svg"

_TIMES = "\N{MULTIPLICATION SIGN}"
_TABLES = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- end of benchmarks -->)", re.DOTALL)
_IDENTITY = ("cpu", "cpus", "architecture", "int8_instructions", "vnni_hidden", "memory_gib")
_SATURATES = "sums of two products saturate at 16 bits"
_INT8 = {
    "amx_int8": ("AMX", "exact sums of 32 bits"),
    "avx512_vnni": ("AVX-512 VNNI", "exact sums of 32 bits"),
    "avx_vnni": ("AVX-VNNI", "exact sums of 32 bits"),
    "avx512bw": ("AVX-512 without VNNI", _SATURATES),
    "avx2": ("AVX2 without VNNI", _SATURATES),
    "i8mm": ("I8MM", "exact sums of 32 bits"),
    "asimddp": ("NEON dot products", "exact sums of 32 bits"),
    "asimd": ("NEON", "exact sums"),
}
"""Instructions for 8-bit integers, the best first: their name, and what they compute."""


@dataclass(frozen=True)
class Group:
    """Figures that are shown together.

    Attributes
    ----------
    title
        Heading.
    note
        The comparison, and how it is made.
    rows
        The name of the row and the name of the rival, by the figure's name or by its part before the slash. In the
        name of the row, ``{model}`` stands for the figure's model.
    ours
        The name of our side.
    plotted
        Names of the figures that are drawn. Default: all.
    own_scale
        Whether each row of the plot has its own scale.
    rival
        The name of all rivals in the plot. Default: as in the rows.
    """

    title: str
    note: str
    rows: dict[str, tuple[str, str]]
    ours: str = "this library"
    plotted: tuple[str, ...] | None = None
    own_scale: bool = False
    rival: str | None = None

    def row(self, figure: dict[str, Any]) -> tuple[str, str] | None:
        """Return what a figure's row and its rival are called, or None if it belongs to another group."""
        found = self.rows.get(figure["name"]) or self.rows.get(_kind(figure))
        if found is None:
            return None
        return found[0].format(model=figure["facts"].get("model", figure["name"])), found[1]

    def figures(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """Return this group's figures of a run, in the order of `rows`."""
        order = list(self.rows)
        found = [figure for figure in run["figures"] if self.row(figure)]
        return sorted(found, key=lambda f: order.index(f["name"] if f["name"] in self.rows else _kind(f)))


GROUPS = (
    Group(
        "Cold start of a whole function",
        "A new process imports the handler and answers one event.",
        {"handler": ("{model}", "boto3, NumPy and onnxruntime, same int8 model")},
    ),
    Group(
        "First prediction of a new process",
        "A new process loads the model and runs it once. This library runs int8.",
        {
            "cold_start": ("{model}", "onnxruntime, float32, pip install"),
            "cold_start_eager": ("{model}", "PyTorch eager, float32"),
        },
    ),
    Group(
        "Warm predictions",
        "The same int8 model runs on one thread. Each row has its own scale.",
        {
            "warm_latency": ("{model}", "onnxruntime, Python API"),
            "warm_throughput": ("{model}, batch of 16", "onnxruntime, Python API"),
        },
        plotted=("warm_latency",),
        own_scale=True,
    ),
    Group(
        "Memory and size",
        "These are peaks after one prediction, and the function without its model.",
        {
            "memory": ("{model}", "onnxruntime, float32, pip install"),
            "package_size": ("unpacked function", "onnxruntime, pip install"),
        },
        rival="onnxruntime, float32, pip install",
    ),
    Group(
        "Batches",
        "200 photographs are dropped into a pipeline in the embedded AWS.",
        {
            "batching/invocations": ("Lambda invocations", "one at a time"),
            "batching/transitions": ("state transitions", "one at a time"),
            "batching/seconds": ("until all rows exist", "one at a time"),
        },
        ours="batches of up to 32",
        own_scale=True,
    ),
    Group(
        "Import and synth",
        "The reference app is compared with an app that uses the CDK alone.",
        {
            "import/package": ("`import cdk_inference` after `import aws_cdk`", "`import aws_cdk` alone"),
            "import/names": ("imports of the reference app", "imports of the CDK modules that they need"),
            "synth/reference": ("warm `cdk synth` of the reference app", "the same resources, written by hand"),
            "synth/pipelines": ("each pipeline of one app from the 26th to the 50th", "from the 2nd to the 25th"),
        },
        plotted=("import", "synth/reference"),
        own_scale=True,
        rival="the CDK alone",
    ),
)


def read(path: Path = FIGURES) -> dict[str, Any]:
    """Return the figures of some runs."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(data: dict[str, Any], path: Path = FIGURES) -> None:
    """Write the figures of some runs."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def merged(data: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Return data with a run's figures instead of those that the same CPU had of the same subjects.

    Other subjects of this CPU stay if they were measured with the same versions; figures of other CPUs stay.
    """
    runs, new = [], run
    for old in data["runs"]:
        if [old["machine"].get(key) for key in _IDENTITY] != [run["machine"].get(key) for key in _IDENTITY]:
            runs.append(old)
        elif (old["machine"], old["quick"]) == (run["machine"], run["quick"]):
            kept = [figure for figure in old["figures"] if figure["subject"] not in run["subjects"]]
            new = {
                **run,
                "subjects": {**old["subjects"], **run["subjects"]},
                "figures": [*kept, *run["figures"]],
            }
    return {"runs": [*runs, new]}


def main_run(data: dict[str, Any]) -> dict[str, Any]:
    """Return the run that the plot shows: of those with the most subjects the last one."""
    return max(
        enumerate(data["runs"]),
        key=lambda run: (not run[1]["machine"]["vnni_hidden"], len(run[1]["subjects"]), run[0]),
    )[1]


def cpu_names(data: dict[str, Any]) -> list[str]:
    """Return a short name for the CPU of each run; no two are the same."""
    names: list[str] = []
    for run in data["runs"]:
        found = run["machine"]
        name = f"{_cpu(found)}, {_int8(found)[0]}"
        if name in names:
            name = f"{name}, {found['cpus']} cores"
        while name in names:
            name += "'"
        names.append(name)
    return names


def tables(data: dict[str, Any]) -> str:
    """Return the CPUs and the figures as tables in Markdown."""
    names = cpu_names(data)
    lines = [
        *(["**From a quick run, which only shows that the benchmarks work.**", ""] if _quick(data) else []),
        "| CPU | Model | int8 arithmetic | Cores | Memory | System | Python | Measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, run in zip(names, data["runs"], strict=True):
        found = run["machine"]
        cells = (
            name,
            ", ".join(f"{key.removeprefix('cpu ')} {said}" for key, said in found.get("cpu_details", {}).items()),
            "; ".join(filter(None, (_int8(found)[1], "VNNI, AVX-512 and AMX hidden" if found["vnni_hidden"] else ""))),
            found["cpus"],
            f"{found['memory_gib']} GiB",
            f"{found['system']}, {found['architecture']}",
            found["python"],
            dates(run),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", *_versions(data, names)]
    for title, note, rows in _grouped(data, names):
        lines += ["", f"### {title}", "", note, "", "| What | CPU | Ours | Against | Theirs | Ratio | Goal |"]
        lines += ["|---|---|---|---|---|---|---|", *rows]
    lines += ["", "### Duration of the benchmarks", "", *_durations(data, names)]
    return "\n".join(lines) + "\n"


def dates(run: dict[str, Any]) -> str:
    """Return the first and the last day of a run."""
    found = sorted({subject["date"] for subject in run["subjects"].values()})
    return " to ".join(dict.fromkeys((found[0], found[-1]))) if found else ""


def ratio(figure: dict[str, Any]) -> str:
    """Return a figure's ratio in words."""
    if figure["better"] == "growth":
        return f"{figure['ratio']:.2f}{_TIMES}"
    word = figure["better"] if figure["ratio"] >= 1 else ""  # nothing is 0.67 times faster
    return f"{figure['ratio']:.2f}{_TIMES} {word}".rstrip()


def value(number: float, unit: str) -> str:
    """Return a value with its unit, in three digits or more; counts have no unit."""
    if 1000 <= number < 1e9:  # noqa: PLR2004
        shown = f"{number:,.0f}"
    else:
        shown = f"{number:#.3g}".rstrip(".") if unit else f"{number:g}"
    return f"{shown} {unit}".rstrip()


def written(page: str, data: dict[str, Any]) -> str:
    """Return the page with its tables as the figures are now."""
    return _TABLES.sub(lambda match: match[1] + tables(data) + match[2], page)


def drawing(data: dict[str, Any]) -> str:
    """Return the plot as SVG; the same figures give the same text."""
    run = main_run(data)
    name = cpu_names(data)[data["runs"].index(run)]
    found = run["machine"]
    return plot.draw(
        "cdk-inference, measured",
        f"Measured on {name}, {found['cpus']} cores, {dates(run)}. A shorter bar is better, "
        f"and {_TIMES} compares it with the blue one.",
        [panel for group in GROUPS if (panel := _panel(group, run)).rows],
    )


def publish(data: dict[str, Any]) -> None:
    """Write the figures, the tables and the plot into the docs."""
    write(data)
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), data), encoding="utf-8")
    PLOT.write_text(drawing(data), encoding="utf-8")


def _panel(group: Group, run: dict[str, Any]) -> plot.Panel:
    rows: dict[str, list[plot.Bar]] = {}
    for figure in group.figures(run):
        names = group.row(figure)
        if names is None or (group.plotted and not {figure["name"], _kind(figure)}.intersection(group.plotted)):
            continue
        label, rival = (text.replace("`", "") for text in (names[0], group.rival or names[1]))
        ours, theirs = (figure[side]["median"] for side in ("ours", "theirs"))
        # With several rivals, our bar is that of the rounds against the first one.
        bars = rows.setdefault(label, [plot.Bar(group.ours, ours, value(ours, figure["unit"]))])
        times = f"{theirs / ours:.2f}{_TIMES}" if ours else ""
        bars.append(plot.Bar(rival, theirs, value(theirs, figure["unit"]), times))
    return plot.Panel(group.title, group.note, [plot.Row(*row) for row in rows.items()], group.own_scale)


def _grouped(data: dict[str, Any], names: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield title, note and table rows of each group that has figures; CPUs of one figure are neighbours."""
    placed: set[str] = set()
    for group in GROUPS:
        found: dict[str, list[str]] = {}
        for name, run in zip(names, data["runs"], strict=True):
            for figure in group.figures(run):
                if row := group.row(figure):
                    placed.add(figure["name"])
                    found.setdefault(figure["name"], []).append(_row(row[0], name, row[1], figure))
        if found:
            yield group.title, group.note, [row for rows in found.values() for row in rows]
    others = [
        _row(figure["what"], name, figure["rival"], figure)
        for name, run in zip(names, data["runs"], strict=True)
        for figure in run["figures"]
        if figure["name"] not in placed
    ]
    if others:
        yield "More", "These figures are not for the docs.", others


def _row(label: str, cpu: str, rival: str, figure: dict[str, Any]) -> str:
    ours, theirs = (value(figure[side]["median"], figure["unit"]) for side in ("ours", "theirs"))
    return f"| {label} | {cpu} | {ours} | {rival} | {theirs} | {ratio(figure)} | {_goal(figure)} |"


def _goal(figure: dict[str, Any]) -> str:
    if figure["goal"] is None:
        return ""
    limit = f"≤ {figure['goal']:g}{_TIMES}" if figure["better"] == "growth" else f"≥ {figure['goal']:g}{_TIMES}"
    return limit if figure["met"] else f"{limit}, missed"


def _versions(data: dict[str, Any], names: list[str]) -> list[str]:
    by_versions: dict[str, list[str]] = {}
    for name, run in zip(names, data["runs"], strict=True):
        packages = ", ".join(f"{package} {number}" for package, number in run["machine"]["packages"].items())
        by_versions.setdefault(packages, []).append(name)
    if len(by_versions) == 1:
        said = f"All with {next(iter(by_versions))}. Files are in the page cache on both sides."
        return textwrap.wrap(said, 120, break_on_hyphens=False)
    said = [f"- {' and '.join(f'*{name}*' for name in found)}: {packages}." for packages, found in by_versions.items()]
    return ["Versions, by CPU; files are in the page cache on both sides:", "", *said]


def _durations(data: dict[str, Any], names: list[str]) -> list[str]:
    """Return a table with the seconds that each subject took on each CPU."""
    subjects = list(dict.fromkeys(subject for run in data["runs"] for subject in run["subjects"]))
    lines = [f"| CPU | {' | '.join(subjects)} | All |", f"|---|{'---|' * len(subjects)}---|"]
    for name, run in zip(names, data["runs"], strict=True):
        seconds = {subject: found["seconds"] for subject, found in run["subjects"].items()}
        cells = [f"{seconds[subject]} s" if subject in seconds else "" for subject in subjects]
        lines.append(f"| {name} | {' | '.join(cells)} | {sum(seconds.values())} s |")
    return lines


def _kind(figure: dict[str, Any]) -> str:
    return str(figure["name"].split("/")[0])


def _cpu(machine: dict[str, Any]) -> str:
    name = re.sub(r"\((R|TM)\)|\bCPU\b|\bProcessor\b|@.*", "", machine["cpu"])
    return " ".join(name.split())


def _int8(machine: dict[str, Any]) -> tuple[str, str]:
    best = next((found for name, found in _INT8.items() if name in machine["int8_instructions"]), None)
    return best or ("unknown int8", "not known")


def _quick(data: dict[str, Any]) -> bool:
    return any(run["quick"] for run in data["runs"])
