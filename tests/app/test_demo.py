"""The demo's exit code: `make demo` is a check as well."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.e2e


@pytest.fixture
def demo(tmp_path: Path) -> ModuleType:
    """The demo, with two photographs of which one has a label that is never accepted."""
    spec = importlib.util.spec_from_file_location("demo", Path(__file__).parents[2] / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("coffee.png", "camera.png"):
        shutil.copy(module.PHOTOGRAPHS / name, tmp_path)
    module.PHOTOGRAPHS = tmp_path
    return module


@pytest.mark.parametrize(("accepted", "code"), [("tripod", 0), ("espresso", 1)], ids=["accepted", "fails"])
def test_the_demo_fails_when_a_label_is_not_accepted(demo, capsys, accepted, code):
    (demo.PHOTOGRAPHS / "accepted.json").write_text(json.dumps({"coffee.png": ["espresso"], "camera.png": [accepted]}))
    assert demo.main() == code
    shown = capsys.readouterr().out
    assert "espresso" in shown
    assert ("not labelled as expected: camera.png" in shown) == bool(code)
