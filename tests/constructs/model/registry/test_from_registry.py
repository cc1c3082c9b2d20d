"""An app takes a built model from a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aws_cdk import App, Stack
from aws_cdk.assertions import Template

from cdk_inference import LambdaPlatform
from cdk_inference.errors import ModelBuildError
from cdk_inference.model import calibrate
from cdk_inference.model.artifact import ModelArtifact
from cdk_inference.model.registry.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.model import BuiltModel

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("registry")]


@pytest.fixture(scope="module")
def registry(tiny: tuple[Path, Path, BuiltModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    Registry(folder).push(tiny[2])
    return folder


def test_the_template_is_that_of_the_recipe(
    tiny: tuple[Path, Path, BuiltModel], registry: Path, tmp_path: Path
) -> None:
    recipe, cache, built = tiny
    one, other = Stack(App(), "Stack"), Stack(App(), "Stack")
    ModelArtifact(one, "Model", recipe=recipe, cache_dir=cache)
    pulled = ModelArtifact.from_registry(
        other, "Model", registry=registry, name="tiny", version=built.version, cache_dir=tmp_path / "cache"
    )
    assert Template.from_stack(one).to_json() == Template.from_stack(other).to_json()
    assert (pulled.asset_hash, pulled.inputs, pulled.outputs) == (
        built.asset_hash,
        built.manifest.inputs,
        built.manifest.outputs,
    )
    assert pulled.project is None


def test_a_model_for_other_cpus_fails(tiny: tuple[Path, Path, BuiltModel], registry: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelBuildError, match=r"must be built for x86_64, got one for arm64; push one with --arch"):
        ModelArtifact.from_registry(
            Stack(App(), "Stack"),
            "Model",
            registry=registry,
            name="tiny",
            version=tiny[2].version,
            platform=LambdaPlatform(architecture="x86_64"),
            cache_dir=tmp_path / "cache",
        )


def test_a_cascade_of_a_pulled_model_fails(tiny: tuple[Path, Path, BuiltModel], registry: Path, tmp_path: Path) -> None:
    stack = Stack(App(), "Stack")
    models = [
        ModelArtifact.from_registry(
            stack, id, registry=registry, name="tiny", version=tiny[2].version, cache_dir=tmp_path / "cache"
        )
        for id in ("First", "Then")
    ]
    with pytest.raises(ModelBuildError, match=r"on the data of their recipes, got 'tiny' from a registry"):
        calibrate(*models, agreement=0.9)
