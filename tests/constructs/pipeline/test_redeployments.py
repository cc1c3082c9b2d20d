"""Which change redeploys which resources: none without a reason, and a new model changes no permission."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template
from tests.constructs.model.conftest import write_recipe

from cdk_inference import Execution, InferencePipeline, ModelArtifact, Postprocess, Preprocess
from cdk_inference.model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

POSTPROCESS = """
def best(outputs, item):
    return {"best": int(outputs["scores"].argmax())}
"""


class Synthesized:
    """The resources of an app by their paths, with a model and stages in a folder."""

    def __init__(self, folder: Path, output: Path, *, execution: Any = None) -> None:
        context = {"aws:cdk:enable-path-metadata": True}
        about = folder / "description.txt"
        description = about.read_text() if about.exists() else None
        stack = cdk.Stack(cdk.App(outdir=str(output), context=context), "Stack", description=description)
        recipe = folder / "recipe" / "recipe.py"
        model = ModelArtifact(stack, "Model", recipe=recipe, cache_dir=folder / "cache")
        InferencePipeline(
            stack,
            "Photos",
            model=model,
            preprocess=Preprocess.image(size=16),
            postprocess=Postprocess.function(f"{folder / 'stages' / 'post.py'}:best"),
            execution=execution,
        )
        self.version = model.version
        self.template: dict[str, Any] = Template.from_stack(stack).to_json()
        self.resources = {
            resource["Metadata"]["aws:cdk:path"].removeprefix("Stack/Photos/"): (name, resource)
            for name, resource in self.template["Resources"].items()
        }

    def differs_from(self, other: Synthesized) -> set[str]:
        assert self.resources.keys() == other.resources.keys()
        return {path for path in self.resources if self.resources[path] != other.resources[path]}


def of_function(stage: str) -> set[str]:
    return {f"{stage}/Function/Resource", f"{stage}/Function/CurrentVersion/Resource", f"{stage}/Alias/Resource"}


@pytest.fixture(scope="module")
def before(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A folder with an app's stages, and its model, built."""

    def make(folder: Path) -> None:
        build_model(write_recipe(folder / "recipe"), cache=folder / "cache")
        (folder / "stages").mkdir()
        (folder / "stages" / "post.py").write_text(POSTPROCESS)

    return made_once("redeployments", make)


@pytest.fixture(scope="module")
def first(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    """The app before each change: another folder redeploys nothing, as the last test shows."""
    folder = tmp_path_factory.mktemp("first")
    return Synthesized(shutil.copytree(before, folder / "app"), folder / "first.out")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def new_weights(folder: Path) -> None:
    edit(folder / "recipe" / "factory.py", "normal_(weights)", "normal_(weights, std=2)")


def comment(folder: Path) -> None:
    edit(folder / "recipe" / "factory.py", "def build", "# Wide enough.\ndef build")


def precision(folder: Path) -> None:
    edit(folder / "recipe" / "recipe.py", "precision=StaticInt8()", "precision=Float32()")


def provenance(folder: Path) -> None:
    edit(folder / "recipe" / "recipe.py", "random numbers", "numbers at random")


def postprocess(folder: Path) -> None:
    edit(folder / "stages" / "post.py", '"best"', '"class"')


def description(folder: Path) -> None:
    (folder / "description.txt").write_text("scores photographs")


CHANGES: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "a comment in the factory": (comment, set()),
    "the stack's description": (description, set()),
    "weights": (new_weights, {*of_function("Inference"), "Workflow/StateMachine/Resource"}),
    "precision": (precision, {*of_function("Inference"), "Workflow/StateMachine/Resource"}),
    "provenance": (provenance, {"Inference/Function/Resource"}),  # its metadata
    "postprocessing": (postprocess, of_function("Postprocess")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_change_redeploys(before: Path, first: Synthesized, tmp_path: Path, change: str) -> None:
    edit_files, expected = CHANGES[change]
    folder = tmp_path / "app"
    shutil.copytree(before, folder)
    edit_files(folder)
    second = Synthesized(folder, tmp_path / "second.out")
    assert second.differs_from(first) == expected
    # In the workflow, only the version differs that rows of rejected objects carry.
    for path in expected & {"Workflow/StateMachine/Resource"}:
        old, new = (json.dumps(each.resources[path]) for each in (first, second))
        assert old.replace(first.version, second.version) == new


def test_another_machine_folder_time_zone_and_version_of_a_tool_redeploy_nothing(
    before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = {"stages": Execution.staged(), "fused": Execution.fused()}
    one = shutil.copytree(before, tmp_path / "one")
    first = {way: Synthesized(one, tmp_path / "a" / way, execution=execution) for way, execution in ways.items()}
    known = importlib.metadata.version
    newer = {"cdk-inference": "99.0"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: newer.get(name) or known(name))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    folder = shutil.copytree(before, tmp_path / "another folder")
    shutil.rmtree(folder / "cache")
    for path in (folder / "recipe").iterdir():
        path.touch()
    second = {way: Synthesized(folder, tmp_path / f"{way}.out", execution=execution) for way, execution in ways.items()}
    for way in ways:
        assert second[way].version == first[way].version
        assert second[way].template["Resources"] == first[way].template["Resources"]
