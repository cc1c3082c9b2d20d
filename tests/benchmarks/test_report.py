"""The page shows the figures that the last run wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from benchmarks.__main__ import SUBJECTS
from benchmarks.harness import Figure, Sample, alternate

from benchmarks import report


def figure(ours: float, theirs: float, *, growth: bool = False, goal: float | None = 2.0) -> Figure:
    sides = [Sample.of([value]) for value in (ours, theirs)]
    return Figure("name", "what", "rival", "ms", *sides, "growth" if growth else "faster", goal)


def run(*figures: dict[str, Any], **machine: Any) -> dict[str, Any]:
    """Return a run of today with some figures, by default on the machine of the docs' first run."""
    found = report.read()["runs"][0]
    subjects = {figure["subject"]: {"date": "2026-12-01", "seconds": 3} for figure in figures}
    return {**found, "machine": {**found["machine"], **machine}, "subjects": subjects, "figures": list(figures)}


def measured(name: str, ours: float, theirs: float, **facts: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(figure(ours, theirs).to_data()))
    return {**data, "subject": name.split("/", maxsplit=1)[0], "name": name, "facts": facts}


def test_the_page_has_the_figures_of_the_last_run() -> None:
    page = report.PAGE.read_text("utf-8")
    assert report.tables(report.read()) in page
    assert report.written(page, report.read()) == page, "run: python -m benchmarks --publish FIGURES"
    assert report.PLOT.read_text("utf-8") == report.drawing(report.read())


def test_each_figure_of_the_docs_says_on_which_cpu_it_was_taken() -> None:
    data = report.read()
    table = report.tables(data)
    assert "## More" not in table
    for name, found in zip(report.cpu_names(data), data["runs"], strict=True):
        assert not found["quick"]
        assert table.count(f"| {name} | ") == len(found["figures"]) + 2  # the CPU itself, and the durations
        assert {figure["subject"] for figure in found["figures"]} == found["subjects"].keys() <= set(SUBJECTS)


def test_every_figure_follows_from_its_medians() -> None:
    for found in (figure for run in report.read()["runs"] for figure in run["figures"]):
        ours, theirs = found["ours"]["median"], found["theirs"]["median"]
        expected = ours / theirs if found["better"] == "growth" else theirs / ours
        assert found["ratio"] == pytest.approx(expected, rel=1e-3)
        assert found["what"]
        assert found["rival"]


def test_a_cpu_without_vnni_stands_beside_the_same_cpu_with_it() -> None:
    native = run(measured("handler/lite0", 2, 4, model="Lite0"), measured("memory/lite0", 5, 6, model="Lite0"))
    hidden = run(measured("handler/lite0", 3, 9, model="Lite0"), vnni_hidden=True, int8_instructions=["avx2"])
    data = report.merged({"runs": [native]}, hidden)
    assert report.cpu_names(data) == ["AMD EPYC, AVX-512 VNNI", "AMD EPYC, AVX2 without VNNI"]
    assert report.main_run(data) == native
    lines = report.tables(data).splitlines()
    rows = [number for number, line in enumerate(lines) if line.startswith("| Lite0 |")]
    assert [lines[number].split(" | ")[1:3] for number in rows] == [
        ["AMD EPYC, AVX-512 VNNI", "2.00 ms"],
        ["AMD EPYC, AVX2 without VNNI", "3.00 ms"],
        ["AMD EPYC, AVX-512 VNNI", "5.00 ms"],
    ]
    assert rows[1] == rows[0] + 1
    assert "saturate at 16 bits; VNNI, AVX-512 and AMX hidden" in "\n".join(lines)


def test_a_slice_replaces_its_subjects_only() -> None:
    first = run(measured("handler/lite0", 2, 4), measured("memory/lite0", 5, 6))
    other = run(measured("handler/lite0", 1, 1), cpu="Neoverse-V1")
    again = run(measured("handler/lite0", 3, 4))
    data = report.merged({"runs": [first, other]}, again)
    assert [found["machine"]["cpu"] for found in data["runs"]] == ["Neoverse-V1", "AMD EPYC"]
    medians = {figure["name"]: figure["ours"]["median"] for figure in data["runs"][1]["figures"]}
    assert medians == {"memory/lite0": 5, "handler/lite0": 3}
    assert data["runs"][1]["subjects"].keys() == {"handler", "memory"}


def test_figures_of_other_versions_are_not_mixed() -> None:
    first = run(measured("handler/lite0", 2, 4), measured("memory/lite0", 5, 6))
    newer = run(measured("handler/lite0", 3, 4), packages={"onnxruntime": "9.9.9"})
    assert report.merged({"runs": [first]}, newer) == {"runs": [newer]}


@pytest.mark.parametrize(
    ("cpu", "instructions", "name"),
    [
        ("Intel(R) Xeon(R) Platinum 8488C", ["amx_int8", "avx512_vnni", "avx2"], "Intel Xeon Platinum 8488C, AMX"),
        ("Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz", ["avx2"], "Intel Core i7-4770, AVX2 without VNNI"),
        ("AMD EPYC 7R13 Processor", ["avx2"], "AMD EPYC 7R13, AVX2 without VNNI"),
        ("aarch64", ["asimddp", "asimd"], "aarch64, NEON dot products"),
        ("riscv64", [], "riscv64, unknown int8"),
    ],
)
def test_cpus_have_short_names(cpu: str, instructions: list[str], name: str) -> None:
    found = run(cpu=cpu, int8_instructions=instructions)
    assert report.cpu_names({"runs": [found, found]}) == [name, f"{name}, 2 cores"]


@pytest.mark.parametrize(
    ("found", "ratio", "met"),
    [
        (figure(1, 3), 3.0, True),
        (figure(2, 3), 1.5, False),
        (figure(2, 3, goal=None), 1.5, None),
        (figure(3, 2, growth=True), 1.5, True),
        (figure(5, 2, growth=True), 2.5, False),
    ],
)
def test_ratios_and_goals(found: Figure, ratio: float, met: bool | None) -> None:
    assert found.ratio == ratio
    assert found.met is met
    data = json.loads(json.dumps(found.to_data()))
    assert ("missed" in report._goal(data)) is (met is False)


def test_contenders_take_turns_and_nobody_is_always_first() -> None:
    order: list[str] = []

    def contender(name: str):
        def once() -> dict[str, float]:
            order.append(name)
            return {"calls": float(len(order))}

        return once

    found = alternate({"a": contender("a"), "b": contender("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert found == {"a": {"calls": [4, 5, 8]}, "b": {"calls": [3, 6, 7]}}
