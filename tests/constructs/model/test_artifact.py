from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aws_cdk import App, Stack
from aws_cdk.assertions import Template

from cdk_inference.errors import ModelBuildError, PropError
from cdk_inference.model import Auto, Float16, StaticInt8, load_recipe
from cdk_inference.model.artifact import ModelArtifact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cdk_inference.model import BuiltModel

UNBUNDLED = {"aws:cdk:bundling-stacks": []}


@pytest.mark.slow
def test_artifact_offers_the_built_model(tiny: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, built = tiny
    model = ModelArtifact(Stack(App(), "Stack"), "Model", recipe=recipe, cache_dir=cache)
    assert (model.path, model.manifest, model.version, model.asset_hash) == (
        built.path,
        built.manifest,
        built.version,
        built.asset_hash,
    )
    assert [s.name for s in (*model.inputs, *model.outputs)] == ["images", "scores"]


@pytest.mark.slow
def test_a_recipe_is_built_for_other_cpus_too(tiny_copy: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, built = tiny_copy
    model = ModelArtifact(Stack(App(), "Stack"), "Model", recipe=recipe, cache_dir=cache)
    found = {architecture: model.build(architecture) for architecture in ("arm64", "x86_64")}
    assert [each.manifest.target for each in found.values()] == ["arm64", "x86_64"]
    assert found["arm64"].version == built.version == model.build().version
    assert found["x86_64"].version != built.version


@pytest.mark.slow
def test_stack_outputs_say_what_ships_and_why_it_may(tiny: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, built = tiny
    stack = Stack(App(), "Stack")
    ModelArtifact(stack, "Model", recipe=recipe, cache_dir=cache)
    outputs = {name[:-8]: output["Value"] for name, output in Template.from_stack(stack).find_outputs("*").items()}
    assert outputs["ModelVersion"] == built.version
    assert outputs["ModelPrecision"].startswith("static_int8, 0.0")
    assert outputs["ModelPrecision"].endswith(" times smaller than float32")
    assert re.fullmatch(r"top1_agreement [01]\.?\d* over 32 samples \(gate 0\.9, float32 1\)", outputs["ModelQuality"])


@pytest.mark.slow
def test_recipe_beside_the_app_is_built_once(
    make_recipe, tiny_copy: tuple[Path, Path, BuiltModel], capfd: pytest.CaptureFixture[str]
) -> None:
    _, cache, _ = tiny_copy
    recipe = make_recipe(to="project", recipe=("max_drop=0.1", "max_drop=0.2"))
    (recipe.parent / "app.py").write_text("...")
    for output in ("cdk.out", "cdk.out", "elsewhere", "cdk.out"):
        app = App(outdir=str(recipe.parent / output))
        model = ModelArtifact(Stack(app, "Stack"), "Model", recipe=recipe, cache_dir=cache)
        app.synth()
        assert (recipe.parent / output / "manifest.json").is_file()
        assert model.version != "unbuilt"
    assert capfd.readouterr().err.count("not in the cache, building") == 1


def test_stack_that_is_not_bundled_builds_nothing(make_recipe, tmp_path: Path) -> None:
    file = make_recipe()
    recipe, _ = load_recipe(file)
    stack = Stack(App(context=UNBUNDLED), "Stack")
    for index, given in enumerate((file, recipe)):
        model = ModelArtifact(stack, f"Model{index}", recipe=given, cache_dir=tmp_path / "cache")
        assert (model.path, model.version) == (None, "unbuilt")
        assert (model.inputs, model.outputs) == (recipe.inputs, recipe.outputs)
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_one_recipe_is_in_two_precisions(tiny_copy: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, built = tiny_copy
    stack = Stack(App(), "Stack")
    cpu = ModelArtifact(stack, "Cpu", recipe=recipe, cache_dir=cache)
    gpu = ModelArtifact(stack, "Gpu", recipe=recipe, cache_dir=cache, precision=Float16())
    assert (cpu.version, cpu.manifest.precision) == (built.version, "static_int8")
    assert gpu.manifest.precision == "float16"
    assert gpu.version != cpu.version
    assert gpu.manifest.metric.quantized >= gpu.manifest.metric.gate == cpu.manifest.metric.gate
    assert (gpu.inputs, gpu.outputs) == (cpu.inputs, cpu.outputs)
    assert not list(recipe.parent.glob("*.lock.json"))


def test_placeholder_has_the_precision_that_was_asked_for(make_recipe: Callable[..., Path]) -> None:
    stack = Stack(App(context=UNBUNDLED), "Stack")
    model = ModelArtifact(stack, "Model", recipe=make_recipe(), precision=Float16())
    assert (model.manifest.precision, model.version) == ("float16", "unbuilt")


@pytest.mark.parametrize("context", [UNBUNDLED, {}])
@pytest.mark.parametrize("precision", [Auto(), "float16", Float16])
def test_precision_that_leaves_something_to_choose_fails(
    make_recipe: Callable[..., Path], context: dict[str, list[str]], precision: object
) -> None:
    stack = Stack(App(context=context), "Stack")
    with pytest.raises(PropError, match=r"precision must be a Float32, Float16, .*, got "):
        ModelArtifact(stack, "Model", recipe=make_recipe(), precision=precision)  # type: ignore[arg-type]


def test_precision_that_the_recipe_has_no_data_for_fails(make_recipe: Callable[..., Path]) -> None:
    recipe = make_recipe(recipe=('    precision=StaticInt8(),\n    calibration="data.py:calibration",\n', ""))
    with pytest.raises(ModelBuildError, match=r"'calibration' must be given with StaticInt8, got None"):
        ModelArtifact(Stack(App(), "Stack"), "Model", recipe=recipe, precision=StaticInt8())


def test_missing_recipe_fails_even_if_the_stack_is_not_bundled(tmp_path: Path) -> None:
    stack = Stack(App(context=UNBUNDLED), "Stack")
    with pytest.raises(ModelBuildError, match=r"recipe must be an existing file, got "):
        ModelArtifact(stack, "Model", recipe=tmp_path / "recipe.py")


def test_app_with_a_recipe_that_raises_fails_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text("RECIPE = 1 / 0")
    app = (
        "from aws_cdk import App, Stack; from cdk_inference import ModelArtifact, hide_tracebacks; hide_tracebacks();"
        "ModelArtifact(Stack(App(), 'Stack'), 'Model', recipe='recipe.py')"
    )
    environment = os.environ | {"CDK_OUTDIR": str(tmp_path / "cdk.out")}  # as the CDK CLI runs it
    result = subprocess.run(
        [sys.executable, "-c", app], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"error: recipe file {tmp_path}/recipe.py cannot be run: ZeroDivisionError on line 1: division by zero"
    )
    assert "Traceback" not in result.stderr
