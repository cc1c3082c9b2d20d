"""``python -m cdk_inference.model``: one test starts it as a data scientist does, the others call what it calls."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from cdk_inference.model import build_model, cli
from cdk_inference.model.records.lock import read_lock
from cdk_inference.model.registry import commands

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.model import BuiltModel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def run_process(*arguments: object) -> str:
    command = [sys.executable, "-m", "cdk_inference.model", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which can build without importing torch again."""
    command, output, errors, ended = ["model", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", command)
        for module in (cli, commands):
            patch.setattr(module, "_out", Console(highlight=False, soft_wrap=True, width=cli._WIDE))
        try:
            cli.main()
        except SystemExit as end:
            ended = int(end.code or 0)
    done = subprocess.CompletedProcess(command, ended, output.getvalue(), errors.getvalue())
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_build_shows_what_was_tried_and_where_it_is(tiny: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, built = tiny
    shown = run_process("build", recipe, "--cache", cache)
    for word in ("float32", "static int8", "shipped", "top1_agreement", str(built.path), str(built.card)):
        assert word in shown
    told = json.loads(run("build", recipe, "--cache", cache, "--json").stdout)
    assert told["version"] == built.version
    assert [c["status"] for c in told["candidates"]] == ["reference", "shipped"]
    assert "quality holds on arm64 and x86_64 with VNNI\n" in shown


def test_build_takes_another_precision(tiny_copy: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, built = tiny_copy
    told = json.loads(run("build", recipe, "--cache", cache, "--precision", "float16", "--json").stdout)
    assert [c["precision"]["kind"] for c in told["candidates"]] == ["float32", "float16"]
    assert told["version"] != built.version
    assert "Invalid value for '--precision'" in run("build", recipe, "--precision", "bfloat16", code=2).stderr


def test_evaluate_judges_what_is_built_and_any_other_file(tiny: tuple[Path, Path, BuiltModel], tmp_path: Path) -> None:
    recipe, cache, built = tiny
    shown = run("evaluate", recipe, "--cache", cache).stdout
    assert f"top1_agreement {built.manifest.metric.quantized:.4g} over 32 samples" in shown
    told = json.loads(run("evaluate", recipe, "--cache", cache, "--model", built.path / "model.onnx", "--json").stdout)
    assert told["metric"]["quantized"] == built.manifest.metric.quantized
    assert told["latency_ms"] > 0
    shown = run("evaluate", recipe, "--cache", cache, "--architecture", "x86_64").stdout
    assert "quality holds on arm64 and x86_64\n" in shown


def test_evaluate_fails_below_the_gate(tiny: tuple[Path, Path, BuiltModel], make_recipe: Callable[..., Path]) -> None:
    _, cache, built = tiny
    strict = make_recipe(
        recipe=('"data.py:evaluation", max_drop=0.1', '"data.py:evaluation", metric="cosine", max_drop=0')
    )
    done = run("evaluate", strict, "--cache", cache, "--model", built.path / "model.onnx", code=1)
    assert "error: cosine 0." in done.stderr
    assert "is below the gate 1" in done.stderr


def test_memory_shows_what_sizes_take_and_cost(tiny: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, _ = tiny
    told = json.loads(run("memory", recipe, "--cache", cache, "--json").stdout)
    sizes = {each["memory_size"]: each for each in told["choices"]}
    assert 64 < told["least_mib"] < 512
    assert told["recommended_mib"] in sizes
    assert sizes[1769]["milliseconds"] < sizes[1024]["milliseconds"]
    shown = run("memory", recipe, "--cache", cache, "--architecture", "x86_64", "--max-latency-ms", 1000).stdout
    # Measured once more, for another target.
    assert re.search(r"\nneeds \d+ MiB; times are of this processor, not of Lambda\n", shown)
    assert shown.count("recommended") == 1
    slow = run("memory", recipe, "--cache", cache, "--max-latency-ms", 1e-9, code=1).stderr
    assert "error: max_latency_ms must be at least " in slow


def test_compare_measures_every_precision_and_keeps_nothing(tiny_copy: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, _ = tiny_copy
    before = sorted((cache / "models").iterdir())
    told = json.loads(run("compare", recipe, "--cache", cache, "--json").stdout)
    kinds = {c["precision"]["kind"] for c in told}
    assert kinds == {"float32", "float16", "static_int8", "dynamic_int8", "weight_only"}
    assert all(c["status"] == "error" or c["latency_ms"] > 0 for c in told)
    assert sorted((cache / "models").iterdir()) == before
    assert "float16" in run("compare", recipe, "--cache", cache).stdout


def test_baseline_is_added_to_a_lock_that_has_none(tmp_path: Path) -> None:
    """The lock decides the same model as before, and the next build has the baseline in its manifest."""
    folder = tmp_path / "digits_cnn"
    shutil.copytree(ROOT / "model_assets" / "digits_cnn", folder)
    file = folder / "digits-cnn.arm64.lock.json"
    committed = read_lock(file)
    assert committed is not None
    before = replace(committed, baseline=())  # as one that was written before there were baselines
    file.write_text(before.to_json())
    shown = run("baseline", folder / "recipe.py", "--cache", tmp_path / "cache").stdout
    after = read_lock(file)
    assert after is not None
    assert shown == f"{file} compares {len(after.baseline)} statistics; commit it\n"
    assert replace(after, baseline=()) == before
    assert committed.baseline
    assert {one.kind for one in after.baseline} >= {"label", "confidence", "margin", "entropy", "sharpness"}
    built = build_model(folder / "recipe.py", cache=tmp_path / "cache", frozen_lock=True)
    assert built.manifest.baseline == after.baseline
    assert built.version == before.sha256[:12]


def test_baseline_fails_without_a_lock(tiny: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, _ = tiny
    errors = run("baseline", recipe, "--cache", cache, code=1).stderr
    assert "tiny.arm64.lock.json must exist, got none; build the recipe, which writes it" in errors


def test_card_is_copied_to_where_it_is_wanted(tiny: tuple[Path, Path, BuiltModel], tmp_path: Path) -> None:
    recipe, cache, _ = tiny
    shown = run("card", recipe, "--cache", cache, "--output", tmp_path / "card").stdout
    assert shown.split() == [str(tmp_path / "card" / name) for name in ("card.html", "card.md")]
    assert "tiny" in (tmp_path / "card" / "card.md").read_text()


def test_cache_is_shown_and_cleared(tiny_copy: tuple[Path, Path, BuiltModel]) -> None:
    _, cache, _ = tiny_copy
    assert list((cache / "models").glob("*/"))
    assert list((cache / "passes").glob("*/"))
    assert "models" in run("cache", "info", "--cache", cache).stdout
    assert "freed 0." in run("cache", "clear", "--cache", cache).stdout
    assert not list((cache / "models").glob("*/"))
    assert not list((cache / "passes").glob("*/"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("build", "nowhere.py"), 1, "error: recipe must be an existing file, got "),
        (
            ("evaluate", "{recipe}", "--model", "nowhere.onnx", "--cache", "{cache}"),
            1,
            "error: model must be an existing file, got nowhere.onnx",
        ),
        (("build",), 2, "Missing argument"),
        (("improve", "{recipe}"), 2, "No such command"),
    ],
)
def test_wrong_use_fails_with_one_message(
    tiny: tuple[Path, Path, BuiltModel], arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run(*(a.format(recipe=tiny[0], cache=tiny[1]) for a in arguments), code=code)
    assert message in done.stderr


def test_models_are_pushed_listed_and_pulled(tiny: tuple[Path, Path, BuiltModel], tmp_path: Path) -> None:
    recipe, cache, built = tiny
    registry = ("--registry", tmp_path / "registry")
    assert f"tiny {built.version}, 0.0" in run("push", recipe, "--cache", cache, *registry).stdout
    assert f" {built.version} " in run("list", *registry).stdout
    assert [model["version"] for model in json.loads(run("list", "tiny", "--json", *registry).stdout)] == [
        built.version
    ]
    output = tmp_path / "output"
    run("pull", "tiny", built.version, *registry, "--cache", tmp_path / "cache", "--output", output)
    assert (output / "artifact" / "model.onnx").read_bytes() == (built.path / "model.onnx").read_bytes()
    assert "of model 'tiny', got " in run("pull", "tiny", "abc", *registry, code=1).stderr
