"""The exit code of the demo for texts, and what it names."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference import LambdaPlatform

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.e2e
def test_the_demo_fails_and_names_the_texts_that_are_not_nearest(
    built: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built("minilm/recipe.py", LambdaPlatform.host().architecture)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    demo = importlib.import_module("demos.sentences")
    demo.console.width = 200
    monkeypatch.setattr(
        demo,
        "PAIRS",
        {
            "A cat is asleep on the sofa.": "The kitten naps on the couch.",
            "Stars are born in clouds of dust.": "Who won the tennis final?",
            "A sun begins as a cloud of gas and dust.": "She is the new tennis champion.",
        },
    )
    assert demo.main() == 1
    shown = capsys.readouterr().out
    wrong = shown.split("another text is nearer than expected: ")[1]
    assert "cat" not in wrong
    assert wrong.count("tennis") == wrong.count("cloud") == 2
