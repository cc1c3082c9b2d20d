"""The passes that are built again when something changes, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.waiting import PATIENCE

from cdk_inference.model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cdk_inference.model import BuiltModel

pytestmark = pytest.mark.slow


def passes(built: BuiltModel) -> dict[str, bool]:
    """Return for each pass whether all its runs came from the cache."""
    found: dict[str, bool] = {}
    for entry in json.loads(built.report.read_text())["passes"]:
        found[entry["pass"]] = found.get(entry["pass"], True) and entry["cached"]
    return found


@pytest.fixture
def warm(tiny: tuple[Path, Path, BuiltModel], tmp_path: Path) -> Path:
    """A copy of the cache that holds the tiny network."""
    return shutil.copytree(tiny[1], tmp_path / "cache")


def test_another_gate_measures_nothing_again(
    tiny: tuple[Path, Path, BuiltModel], warm: Path, make_recipe: Callable[..., Path]
) -> None:
    built = build_model(make_recipe(recipe=("max_drop=0.1", "max_drop=0.2")), cache=warm)
    ran = passes(built)
    assert built.path != tiny[2].path
    assert built.version == tiny[2].version
    assert built.manifest.metric.gate == 0.8
    assert all(ran[name] for name in ("export", "clean", "prepare", "candidates", "evaluate", "measure"))


def test_another_precision_does_not_export_again(warm: Path, make_recipe: Callable[..., Path]) -> None:
    ran = passes(build_model(make_recipe(recipe=("StaticInt8()", 'StaticInt8(method="minmax")')), cache=warm))
    assert ran["export"]
    assert ran["clean"]
    assert not ran["candidates"]


def test_other_weights_export_again(warm: Path, make_recipe: Callable[..., Path]) -> None:
    ran = passes(build_model(make_recipe(factory=("normal_(weights)", "normal_(weights, std=0.9)")), cache=warm))
    assert not any(ran[name] for name in ("export", "clean", "prepare", "candidates", "evaluate"))


def test_damaged_pass_runs_again(
    tiny: tuple[Path, Path, BuiltModel], warm: Path, make_recipe: Callable[..., Path]
) -> None:
    (cleaned,) = (warm / "passes").glob("clean-*/model.onnx")
    cleaned.write_bytes(cleaned.read_bytes()[:-100])
    built = build_model(make_recipe(recipe=("max_drop=0.1", "max_drop=0.3")), cache=warm)
    ran = passes(built)
    assert ran["export"]
    assert not ran["clean"]
    assert built.version == tiny[2].version


def test_interrupted_build_resumes(
    tiny: tuple[Path, Path, BuiltModel], tmp_path: Path, make_recipe: Callable[..., Path]
) -> None:
    """Interrupted as from a keyboard when the model is exported; the second build begins there."""
    recipe = make_recipe()
    command = [sys.executable, "-m", "cdk_inference.model", "build", str(recipe), "--cache", str(tmp_path / "cache")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if ": export (" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(PATIENCE) == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "interrupted; what is finished stays in the cache"
    assert not list((tmp_path / "cache" / "models").glob("*/"))
    built = build_model(recipe, cache=tmp_path / "cache")
    assert built.version == tiny[2].version
    assert passes(built)["export"]
