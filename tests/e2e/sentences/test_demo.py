"""The exit code of the demo for texts, and what it names."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from tests.e2e.sentences.conftest import REPOSITORY, SCRIPT

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.local import LocalCloud

pytestmark = pytest.mark.e2e


def test_the_demo_fails_and_names_the_texts_that_are_not_nearest(
    cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In what is deployed already: it takes long, and the fixture has deployed the same app."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    demo = importlib.import_module("demos.sentences")
    deployed = []

    def deploy(folder: Path, *, app: str, **_: object) -> None:
        deployed.append((folder, app))

    monkeypatch.setattr(cloud, "deploy", deploy)
    monkeypatch.setattr(demo, "LocalCloud", lambda: nullcontext(cloud))
    monkeypatch.setattr(
        demo,
        "PAIRS",
        {
            "A cat is asleep on the sofa.": "The kitten naps on the couch.",
            "Stars are born in clouds of dust.": "Who won the tennis final?",
            "A sun begins as a cloud of gas and dust.": "She is the new tennis champion.",
        },
    )
    demo.console.width = 200
    assert demo.main() == 1
    assert deployed == [(REPOSITORY, f"python3 {SCRIPT}")]
    shown = capsys.readouterr().out
    wrong = shown.split("another text is nearer than expected: ")[1]
    assert "cat" not in wrong
    assert wrong.count("tennis") == wrong.count("cloud") == 2
