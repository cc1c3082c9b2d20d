"""The demo of the cascade: its exit code, and what it says of answers and shares."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from tests.e2e.cascade.conftest import EXAMPLE, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.local import LocalCloud

pytestmark = pytest.mark.e2e

# Labels that the demo accepts. No model gives the last one.
ACCEPTED = {"coffee.png": ["espresso"], "chelsea.png": ["Egyptian cat"], "camera.png": ["espresso"]}


def test_the_demo_shows_both_answers_and_fails_for_a_label_that_is_not_accepted(
    cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In what is deployed already: it takes long, and the fixture has deployed the same app."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    demo = importlib.import_module("demos.cascade")
    demo.console.width = 200
    for name in ACCEPTED:
        shutil.copy(demo.PHOTOGRAPHS / name, tmp_path / f"demo {name}")
    (tmp_path / "accepted.json").write_text(json.dumps({f"demo {name}": labels for name, labels in ACCEPTED.items()}))
    monkeypatch.setattr(demo, "PHOTOGRAPHS", tmp_path)
    deployed = []

    def deploy(folder: Path, *, app: str, **_: object) -> None:
        deployed.append((folder, app))

    monkeypatch.setattr(cloud, "deploy", deploy)
    monkeypatch.setattr(cloud, "resources", cloud.stack("PhotoCascade").resources)  # not those of other apps
    monkeypatch.setattr(demo, "LocalCloud", lambda: nullcontext(cloud))
    assert demo.main() == 1
    assert deployed == [(REPOSITORY, f"python3 {EXAMPLE}")]
    shown = capsys.readouterr().out
    assert shown.rstrip().endswith("not labelled as expected: demo camera.png")
    rows = {name: next(line for line in shown.splitlines() if f"demo {name}" in line) for name in ACCEPTED}
    assert "espresso 0.95" in rows["coffee.png"]
    assert "not asked" in rows["coffee.png"]
    assert "lite0: 0.95 >= " in rows["coffee.png"]
    assert "tiger cat 0.4" in rows["chelsea.png"]
    assert "Egyptian cat 0.5" in rows["chelsea.png"]
    assert re.search(r"lite2: 0\.4\d < ", rows["chelsea.png"])
    assert "cpu, cpu" in rows["chelsea.png"]
    assert "Escalated: 1 of 3 here (33%)" in shown
