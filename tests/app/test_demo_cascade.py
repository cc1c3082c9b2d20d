"""The demo of the cascade: its exit code, and what it says of answers, shares and costs."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference import LambdaPlatform
from cdk_inference.local import Outcome
from cdk_inference.model import Float16

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

# Labels that the demo accepts. No model gives the last one.
ACCEPTED = {"coffee.png": ["espresso"], "chelsea.png": ["Egyptian cat"], "camera.png": ["espresso"]}


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    demo = importlib.import_module("demos.cascade")
    demo.console.width = 200
    return demo


@pytest.mark.e2e
def test_the_demo_shows_both_answers_and_fails_for_a_label_that_is_not_accepted(
    demo: ModuleType,
    built: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    architecture = LambdaPlatform.host().architecture
    built("efficientnet_lite/lite0.py", architecture)
    built("efficientnet_lite/lite2.py", architecture, Float16())
    for name in ACCEPTED:
        shutil.copy(demo.PHOTOGRAPHS / name, tmp_path)
    (tmp_path / "accepted.json").write_text(json.dumps(ACCEPTED))
    monkeypatch.setattr(demo, "PHOTOGRAPHS", tmp_path)
    assert demo.main() == 1
    shown = capsys.readouterr().out
    assert shown.rstrip().endswith("not labelled as expected: camera.png")
    rows = {name: next(line for line in shown.splitlines() if name in line) for name in ACCEPTED}
    assert "espresso 0.95" in rows["coffee.png"]
    assert "not asked" in rows["coffee.png"]
    assert "lite0: 0.95 >= " in rows["coffee.png"]
    assert "tiger cat 0.4" in rows["chelsea.png"]
    assert "Egyptian cat 0.5" in rows["chelsea.png"]
    assert re.search(r"lite2: 0\.4\d < ", rows["chelsea.png"])
    assert "cpu, cpu" in rows["chelsea.png"]
    assert "Escalated: 1 of 3 here (33%)" in shown


@pytest.mark.parametrize(
    ("outcome", "fine"),
    [
        (Outcome("dog.jpg", "SUCCEEDED", label="malinois"), True),
        (Outcome("dog.jpg", "SUCCEEDED", label="drilling platform"), False),
        (Outcome("dog.jpg", "SUCCEEDED"), False),
        (Outcome("dog.jpg", "REJECTED", reason="not a JPEG"), False),
        (Outcome("dog.jpg", "DEAD_LETTER"), False),
        (Outcome("rocket.jpg", "SUCCEEDED", label="drilling platform"), True),
        (Outcome("rocket.jpg", "SUCCEEDED", label="espresso"), False),
    ],
)
def test_only_accepted_labels_and_the_known_mistake_are_expected(
    demo: ModuleType, outcome: Outcome, *, fine: bool
) -> None:
    assert demo.expected(outcome, ["malinois"]) is fine


def test_costs_say_what_is_assumed_and_which_way_costs_less(
    demo: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for milliseconds in (1.0, 50.0):
        demo.show_costs(0.6, milliseconds)
        shown.append(capsys.readouterr().out)
    quick, slow = (" ".join(text.split()) for text in shown)
    assert "lite2 on GPU (assumed)" in quick
    assert "ASSUMED to take 1 ms, which nobody measured" in quick
    assert "ASSUMED to take 50 ms" in slow
    assert re.search(r"costs \d+% more than lite2 alone on the CPU, and \d+% more on a GPU", quick)
    assert re.search(r"costs \d+% more than lite2 alone on the CPU, and \d+% less on a GPU", slow)


def test_where_a_cascade_begins_to_pay(demo: ModuleType) -> None:
    from cdk_inference.costs import CascadeOption, CpuOption

    def pays(milliseconds: float) -> bool:
        second = CpuOption("second", milliseconds=milliseconds)
        cascade = CascadeOption("cascade", first=CpuOption("first", milliseconds=3), then=second, escalation=0.6)
        return bool(demo.usd(cascade) < demo.usd(second))

    found = demo.least(pays)
    assert pays(found)
    assert not pays(found * 0.99)
