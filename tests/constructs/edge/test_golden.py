"""The example by which a device tests itself: made once for each model, and the same on every machine afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aws_cdk import App, Stack

from cdk_inference import ModelArtifact, ModelBuildError
from cdk_inference.edge import golden
from cdk_inference.edge.golden import golden_example

if TYPE_CHECKING:
    from cdk_inference.model import BuiltModel

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).parents[3] / "model_assets" / "digits_cnn"


@pytest.fixture
def digits(tmp_path: Path) -> tuple[ModelArtifact, BuiltModel]:
    folder = shutil.copytree(
        DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("*.example.lock.json", "__pycache__")
    )
    stack = Stack(App(context={"aws:cdk:bundling-stacks": []}), "Stack")
    model = ModelArtifact(stack, "Model", recipe=folder / "recipe.py")
    return model, model.build("x86_64")


def test_an_example_is_kept_next_to_the_recipe(
    digits: tuple[ModelArtifact, BuiltModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, built = digits
    first = golden_example(model, built)
    assert first is not None
    assert first["outputs"]["logits"]["shape"] == [1, 10]
    assert first["inputs"]["images"]["shape"] == [1, 8, 8]
    assert model.recipe_folder is not None
    (file,) = model.recipe_folder.glob("*.example.lock.json")
    assert file.name == f"digits-cnn.{built.manifest.target}.example.lock.json"
    # A machine that could not make it has the same, also with a frozen lock.
    monkeypatch.setattr(golden, "_answered", lambda *_: pytest.fail("it is made once"))
    monkeypatch.setattr(golden.platform, "machine", lambda: "riscv64")
    monkeypatch.setenv("CDK_INFERENCE_FROZEN_LOCK", "1")
    assert golden_example(model, built) == first

    kept: dict[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "model_version": "other"}))
    with pytest.raises(
        ModelBuildError, match=r"must be of version .* of 'digits-cnn', got another; synthesize without"
    ):
        golden_example(model, built)
    monkeypatch.delenv("CDK_INFERENCE_FROZEN_LOCK")
    assert golden_example(model, built) is None, "on such a machine"
    file.write_text("[]")
    with pytest.raises(ModelBuildError, match="must be a JSON object, got list; delete it"):
        golden_example(model, built)


@pytest.mark.parametrize(("code", "message"), [(-9, "must end by itself, got signal 9; try again"), (1, None)])
def test_a_process_that_was_ended_is_not_taken_for_a_model_without_an_example(
    digits: tuple[ModelArtifact, BuiltModel], monkeypatch: pytest.MonkeyPatch, code: int, message: str | None
) -> None:
    model, built = digits
    done = golden.subprocess.CompletedProcess([], code, "", "")
    monkeypatch.setattr(golden.subprocess, "run", lambda *_, **__: done)
    if message is None:
        assert golden_example(model, built) is None
    else:
        with pytest.raises(ModelBuildError, match=message):
            golden_example(model, built)
    assert model.recipe_folder is not None
    assert not list(model.recipe_folder.glob("*.example.lock.json"))
