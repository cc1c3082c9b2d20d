"""The search for a precision, and the lock that records it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.constructs.model.conftest import write_recipe

from cdk_inference.errors import ModelBuildError, ModelGateError
from cdk_inference.model import StaticInt8, build_model
from cdk_inference.model.records.lock import read_lock

if TYPE_CHECKING:
    from pathlib import Path

    from tests.constructs.model.conftest import BuildOnce

    from cdk_inference.model import BuiltModel

pytestmark = pytest.mark.slow

AUTO = ("StaticInt8()", "Auto()")
# Wide enough that 8 bits are far quicker than float32, whatever else the machine does.
WIDE = ("Conv2d(8, 16", "Conv2d(128, 128")


def write_wide(folder: Path) -> Path:
    """Write the network with the policy `Auto`."""
    recipe = write_recipe(folder, recipe=AUTO, factory=WIDE)
    factory = recipe.parent / "factory.py"
    text = factory.read_text()
    for old, new in (
        ("Conv2d(3, 8", "Conv2d(3, 128"),
        ("BatchNorm2d(8)", "BatchNorm2d(128)"),
        ("Linear(16,", "Linear(128,"),
        # So that not one class is the best for all colours.
        ("/ 255.0", "/ 255.0 - 0.5"),
        ("    model = Tiny()", "    torch.manual_seed(2)\n    model = Tiny()"),
    ):
        assert old in text
        text = text.replace(old, new)
    factory.write_text(text)
    return recipe


@pytest.fixture(scope="module")
def found(build_once: BuildOnce) -> tuple[Path, Path, BuiltModel]:
    """Recipe file, cache and artifact of the tiny network, after a search."""
    return build_once("auto", write_wide)


@pytest.fixture
def copied(found: tuple[Path, Path, BuiltModel], tmp_path: Path) -> Path:
    """The recipe with its lock, elsewhere."""
    shutil.copytree(found[0].parent, tmp_path / "recipe")
    return tmp_path / "recipe" / "recipe.py"


def report(built: BuiltModel) -> dict:
    return json.loads(built.report.read_text())


def test_search_ships_the_best_that_passes_and_says_what_it_tried(found: tuple[Path, Path, BuiltModel]) -> None:
    built = found[2]
    candidates = report(built)["candidates"]
    (shipped,) = (c for c in candidates if c["status"] == "shipped")
    assert candidates[0]["name"] == "float32"
    assert len(candidates) > 1
    assert shipped["quality"] >= 0.9
    assert shipped["precision"]["kind"] == built.manifest.precision
    assert shipped["size_bytes"] == built.manifest.size_bytes
    assert built.manifest.measured is not None


def test_search_writes_a_lock_that_says_the_same(found: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, built = found
    lock = read_lock(recipe.parent / "tiny.arm64.lock.json")
    assert lock is not None
    assert lock.sha256.startswith(built.version)
    assert (lock.metric, lock.measured) == (built.manifest.metric, built.manifest.measured)
    assert isinstance(lock.precision, StaticInt8)
    assert lock.ranges
    assert build_model(recipe, cache=cache) == built  # the lock does not count as a change


ELSEWHERE = """
import os, sys
os.umask(0o077)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from cdk_inference.model import build_model
print(build_model(sys.argv[1], frozen_lock=True).asset_hash)
"""


def test_lock_gives_the_same_bytes_elsewhere_and_measures_nothing(
    found: tuple[Path, Path, BuiltModel], copied: Path, tmp_path: Path
) -> None:
    """Another folder, cache, umask, hash seed and working folder, and one core."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, copied],
        env=os.environ | {"PYTHONHASHSEED": "7", "CDK_INFERENCE_CACHE": str(tmp_path / "cache")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == found[2].asset_hash
    for name in ("measure", "evaluate", "calibration", "sensitivity"):
        assert f": {name}" not in done.stderr
    (artifact,) = (tmp_path / "cache" / "models").glob("*/artifact")
    for name in ("model.onnx", "manifest.json"):
        assert (artifact / name).read_bytes() == (found[2].path / name).read_bytes()


@pytest.fixture
def without_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installation has no torch, and none of what exports with it."""
    version = importlib.metadata.version

    def found(name: str) -> str:
        if name in ("torch", "onnxscript", "onnx-ir"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", found)


@pytest.mark.usefixtures("without_tools")
def test_model_in_the_cache_needs_none_of_the_tools_that_built_it(found: tuple[Path, Path, BuiltModel]) -> None:
    assert build_model(found[0], cache=found[1], frozen_lock=True) == found[2]


@pytest.mark.usefixtures("without_tools")
def test_model_that_is_not_in_the_cache_fails_without_the_tools(
    found: tuple[Path, Path, BuiltModel], copied: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ModelBuildError,
        match=r"model 'tiny' must be built, as it is not in the cache .*: building a model needs the .*pip",
    ):
        build_model(copied, cache=tmp_path / "cache")
    (copied.parent / "tiny.arm64.lock.json").unlink()
    with pytest.raises(ModelBuildError, match=r"^building a model needs the \"model\" extra"):
        build_model(copied, cache=found[1])


def test_lock_needs_neither_calibration_nor_evaluation_beyond_the_first_batch(
    found: tuple[Path, Path, BuiltModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files count for the lock, so what they do is changed by a variable that they read."""
    text = found[0].parent.joinpath("data.py").read_text()
    recipe = write_recipe(tmp_path / "other", recipe=AUTO)
    guarded = text.replace(
        "    for _ in range(4):", "    import os\n    for _ in range(1 if 'LAZY' in os.environ else 4):"
    )
    (recipe.parent / "data.py").write_text(guarded)
    first = build_model(recipe, cache=tmp_path / "one")
    monkeypatch.setenv("LAZY", "1")
    assert build_model(recipe, cache=tmp_path / "two", frozen_lock=True).asset_hash == first.asset_hash


def test_what_has_no_part_in_the_decision_keeps_the_lock(found: tuple[Path, Path, BuiltModel], copied: Path) -> None:
    text = "# a comment\n" + copied.read_text()
    copied.write_text(text)
    (copied.parent / "NOTES.md").write_text("nothing about the model")
    (copied.parent / "app.py").write_text("raise SystemExit")
    assert build_model(copied, cache=found[1], frozen_lock=True) == found[2]
    copied.write_text(text.replace("max_drop=0.1", "max_drop=0.2").replace("random numbers", "my own numbers"))
    looser = build_model(copied, cache=found[1], frozen_lock=True)
    assert looser.version == found[2].version
    assert looser.manifest.metric is not None
    assert looser.manifest.metric.gate == 0.8
    assert looser.manifest.provenance["origin"] == "my own numbers"


def test_change_is_named_and_searched_again(
    found: tuple[Path, Path, BuiltModel], copied: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = copied.parent / "data.py"
    data.write_text(data.read_text() + "# more\n")
    copied.write_text(copied.read_text().replace("max_drop=0.1", "max_drop=0.2"))
    again = build_model(copied, cache=found[1])
    assert "the lock does not fit, searching again: data.py changed\n" in capfd.readouterr().err
    lock = read_lock(copied.parent / "tiny.arm64.lock.json")
    assert lock is not None
    assert lock.metric.gate == again.manifest.metric.gate == 0.8


def test_frozen_lock_that_does_not_fit_fails(
    found: tuple[Path, Path, BuiltModel], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = copied.read_text()
    copied.write_text(text.replace("max_drop=0.1", "max_drop=0.1, floor=1.1"))
    with pytest.raises(
        ModelBuildError, match=r"one that does not: its model has top1_agreement .*, beyond the gate 1\.1;"
    ):
        build_model(copied, cache=found[1], frozen_lock=True)
    copied.write_text(text.replace("max_drop=0.1", "min_confidence=0.1"))
    (copied.parent / "numbers.bin").write_bytes(b"1")
    why = r"one that does not: numbers\.bin is new, recipe field evaluation\.min_confidence changed; build without"
    with pytest.raises(ModelBuildError, match=why):
        build_model(copied, cache=found[1], frozen_lock=True)
    (copied.parent / "tiny.arm64.lock.json").unlink()
    monkeypatch.setenv("CDK_INFERENCE_FROZEN_LOCK", "1")
    with pytest.raises(ModelBuildError, match=r"tiny\.arm64\.lock\.json must fit .*: there is none"):
        build_model(copied, cache=found[1])
    with pytest.raises(ModelBuildError, match="search must be left out with a frozen lock"):
        build_model(copied, cache=found[1], search=True)


def test_lock_of_other_tools_is_searched_again(
    found: tuple[Path, Path, BuiltModel], copied: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = copied.parent / "tiny.arm64.lock.json"
    lock = read_lock(file)
    assert lock is not None
    file.write_text(replace(lock, tools=lock.tools | {"onnxruntime": "1.0.0"}).to_json())
    again = build_model(copied, cache=found[1])
    assert "searching again: onnxruntime 1.0.0 -> " in capfd.readouterr().err
    # Which candidate is the quickest may differ from one search to the next.
    searched = read_lock(file)
    assert searched is not None
    assert searched.tools == lock.tools
    assert searched.sha256.startswith(again.version)


def test_lock_that_does_not_match_fails_and_leaves_nothing(
    found: tuple[Path, Path, BuiltModel], copied: Path, tmp_path: Path
) -> None:
    file = copied.parent / "tiny.arm64.lock.json"
    lock = read_lock(file)
    assert lock is not None
    other = replace(lock, sha256="1" * 64).to_json()
    shutil.copytree(found[1] / "passes", tmp_path / "cache" / "passes", ignore=shutil.ignore_patterns(".*"))
    file.write_text(other)
    with pytest.raises(ModelBuildError, match=r"must have the sha256 of its lock, .*: delete tiny\."):
        build_model(copied, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").glob("*/"))
    assert file.read_text() == other


def test_damaged_lock_fails_before_anything_is_built(copied: Path, tmp_path: Path) -> None:
    (copied.parent / "tiny.arm64.lock.json").write_text("<<<<<<< HEAD")
    with pytest.raises(ModelBuildError, match=r"the lock .*tiny\.arm64\.lock\.json cannot be used: "):
        build_model(copied, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_recipe_in_a_folder_that_cannot_be_written_keeps_its_decision_in_the_cache(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the lock would be, there is a folder that is not empty: root may write anywhere else."""
    recipe = write_recipe(tmp_path / "recipe", recipe=AUTO)
    blocked = recipe.parent / ".tiny.arm64.lock.json.partial"
    blocked.mkdir()
    built = build_model(recipe, cache=tmp_path / "cache")
    assert "cannot write the lock" in capfd.readouterr().err
    assert build_model(recipe, cache=tmp_path / "cache") == built
    assert capfd.readouterr().err == ""


def test_budget_and_objective_are_about_the_bytes_that_ship(tmp_path: Path) -> None:
    """Without calibration, the weights alone can be in 8 bits: the convolutions have no kernel for them."""
    recipe = write_wide(tmp_path / "recipe")
    text = recipe.read_text()
    for old, new in (
        ("Auto()", 'Auto(objective="size")'),
        ("max_drop=0.1", "max_drop=0.1, max_size_mb=0.3"),
        ('    calibration="data.py:calibration",\n', ""),
    ):
        assert old in text
        text = text.replace(old, new)
    recipe.write_text(text)
    built = build_model(recipe, cache=tmp_path / "cache")
    (shipped,) = (c for c in report(built)["candidates"] if c["status"] == "shipped")
    files = sum(file.stat().st_size for file in built.path.glob("model.*"))
    assert built.manifest.precision == "weight_only"
    assert files == shipped["size_bytes"] == built.manifest.size_bytes <= 300_000
    assert built.manifest.baseline_size_bytes > 600_000


def test_nothing_passes_fails_with_every_figure(tmp_path: Path) -> None:
    gate = ("max_drop=0.1", "max_drop=0.1, max_size_mb=0.0001")
    recipe = write_recipe(tmp_path / "recipe", recipe=AUTO)
    recipe.write_text(recipe.read_text().replace(*gate))
    with pytest.raises(ModelGateError) as error:
        build_model(recipe, cache=tmp_path / "cache")
    message = str(error.value)
    assert message.startswith("model 'tiny': a candidate must pass the gate, got float32: 0.")
    assert "MB is above max_size_mb 0.0001 | static int8" in message
    assert "the nearest, static int8" in message
    assert not list((tmp_path / "recipe").glob("*.lock.json"))


def test_float32_ships_when_nothing_else_passes_and_the_report_says_so(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", recipe=AUTO)
    text = recipe.read_text().replace(
        '"data.py:evaluation", max_drop=0.1', '"data.py:evaluation", metric="cosine", max_drop=0'
    )
    assert text != recipe.read_text()
    recipe.write_text(text)
    built = build_model(recipe, cache=tmp_path / "cache")
    candidates = report(built)["candidates"]
    assert built.manifest.precision == "float32"
    assert candidates[0]["status"] == "shipped"
    assert candidates[0]["reason"] == "nothing that passes is faster, or smaller and as fast"
    assert {c["status"] for c in candidates[1:]} <= {"failed", "error"}
