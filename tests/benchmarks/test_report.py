"""What the page says of the figures is what the last run wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from benchmarks.harness import Figure, Sample, alternate

from benchmarks import report

if TYPE_CHECKING:
    from pathlib import Path


def figure(ours: float, theirs: float, *, growth: bool = False, goal: float | None = 2.0) -> Figure:
    sides = [Sample.of([value]) for value in (ours, theirs)]
    return Figure("name", "what", "rival", "ms", *sides, "growth" if growth else "faster", goal)


def test_the_page_has_the_figures_of_the_last_run() -> None:
    page = report.PAGE.read_text("utf-8")
    assert report.table(report.read()) in page
    assert report.written(page, report.read()) == page, "run: python -m benchmarks --publish docs/benchmarks.json"


def test_the_plot_is_drawn_from_the_figures(tmp_path: Path) -> None:
    report.plot(report.read(), tmp_path / "one.svg")
    report.plot(report.read(), tmp_path / "other.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    drawn = report.PLOT.read_text("utf-8")
    for found in report.read()["figures"]:
        assert f">{found['name'].replace('_', ' ')}<" in drawn


def test_every_figure_follows_from_its_medians() -> None:
    for found in report.read()["figures"]:
        ours, theirs = found["ours"]["median"], found["theirs"]["median"]
        expected = ours / theirs if found["better"] == "growth" else theirs / ours
        assert found["ratio"] == pytest.approx(expected, rel=1e-3)
        assert found["what"]
        assert found["rival"]


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
