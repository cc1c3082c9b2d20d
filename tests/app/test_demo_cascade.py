"""The demo of the cascade: which answers it expects, and what it says of costs. tests/e2e/cascade runs it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local import Outcome

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    demo = importlib.import_module("demos.cascade")
    demo.console.width = 200
    return demo


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
