"""One app for all tests of the review: two pipelines, one of them nested, and facts of a model that was built."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from tests.constructs.conftest import RECIPE

from cdk_inference import (
    DirectPipeline,
    InferencePipeline,
    ModelArtifact,
    Postprocess,
    Preprocess,
    Route,
    Routing,
)
from cdk_inference.review.assembly import MODEL_KEY, Assembly, read_assembly

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LABELS = [f"label {number}" for number in range(10)]
METRIC = {"name": "top1", "baseline": 0.91, "quantized": 0.9, "gate": 0.86, "samples": 400}
FACTS = {"model_version": "0123456789ab", "size_bytes": 5_000_000, "metric": METRIC, "precision": "static_int8"}
MEASURED = {"deployed_ms": 2.8, "deployed_peak_mb": 71.0}


@pytest.fixture(scope="session")
def synthesized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cloud assembly of the app."""
    folder = tmp_path_factory.mktemp("review") / "cdk.out"
    app = cdk.App(
        outdir=str(folder),
        context={
            "aws:cdk:bundling-stacks": [],
            "aws:cdk:enable-path-metadata": True,
            "aws:cdk:enable-asset-metadata": True,
        },
    )
    stack = cdk.Stack(app, "Shop")
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    preprocess = Preprocess.image(size=224)
    small, large = (
        Route(
            model=model,
            preprocess=preprocess,
            postprocess=Postprocess.classification(labels=LABELS),
            name=name,
            milliseconds=milliseconds,
        )
        for name, milliseconds in (("small", 3), ("large", 30))
    )
    InferencePipeline(stack, "Photos", routing=Routing.split({"a": (90, small), "b": (10, large)}))
    inner = cdk.NestedStack(stack, "Inner")
    DirectPipeline(inner, "Fast", model=ModelArtifact(inner, "Model", recipe=RECIPE), preprocess=preprocess)
    app.synth()
    _plant_facts(folder)
    return folder


def _plant_facts(folder: Path) -> None:
    """Say of the models, which were not built, what a build says."""
    for file in folder.glob("*.template.json"):
        template = json.loads(file.read_text())
        for resource in template["Resources"].values():
            facts = resource.get("Metadata", {}).get("cdk-inference", {})
            if "model" in facts:
                facts["model"] |= FACTS
        file.write_text(json.dumps(template))
    file = folder / "Shop.metadata.json"
    metadata = json.loads(file.read_text())
    record = json.dumps({"manifest": {**FACTS, "measured": MEASURED}})
    metadata.setdefault("/Shop/Model", []).append({"type": MODEL_KEY, "data": record})
    file.write_text(json.dumps(metadata))


@pytest.fixture(scope="session")
def app(synthesized: Path) -> Assembly:
    """The same, read."""
    return read_assembly(synthesized, "cdk.out")


def changed(synthesized: Path, folder: Path, *changes: Callable[[str, dict[str, Any]], object]) -> Assembly:
    """Change the app's resources, each of which a function gets with its path, and read what comes out."""
    shutil.copytree(synthesized, folder)
    for file in folder.glob("*.template.json"):
        template = json.loads(file.read_text())
        for resource in template["Resources"].values():
            for change in changes:
                change(resource.get("Metadata", {}).get("aws:cdk:path", ""), resource)
        file.write_text(json.dumps(template))
    return read_assembly(folder, "cdk.out")
