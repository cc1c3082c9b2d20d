"""Stacks for template tests: nothing is built or bundled, as in `cdk ls`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template
from syrupy.extensions.json import JSONSnapshotExtension

from cdk_inference import InferencePipeline, ModelArtifact, Preprocess
from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule

if TYPE_CHECKING:
    from collections.abc import Callable

    from syrupy.assertion import SnapshotAssertion

ASSET = re.compile(r"\b[0-9a-f]{64}\b")
# A version's logical id ends in a hash of its function's code and configuration.
VERSION = re.compile(r"(CurrentVersion[0-9A-F]{8})[0-9a-f]{32}\b")

RECIPE = ModelRecipe(
    name="tiny",
    source=TorchModule("factory.py:build"),
    precision=Float32(),
    inputs=(TensorSpec("image", "uint8", ("batch", 224, 224, 3)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
    evaluation=Evaluation(data="data.py:evaluation"),
    provenance=Provenance(license="Apache-2.0", origin="made for these tests"),
)


@pytest.fixture
def stack() -> cdk.Stack:
    return make_stack()


def make_stack(**context: object) -> cdk.Stack:
    return cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": [], **context}), "Stack")


@pytest.fixture
def model(stack: cdk.Stack) -> ModelArtifact:
    return ModelArtifact(stack, "Model", recipe=RECIPE)


@pytest.fixture
def pipeline(stack: cdk.Stack, model: ModelArtifact) -> Callable[..., InferencePipeline]:
    def make(**props: Any) -> InferencePipeline:
        return InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224), **props)

    return make


def resources(source: cdk.Stack | dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the resources of one type in a stack or a template, by logical id."""
    template = source if isinstance(source, dict) else Template.from_stack(source).to_json()
    return {name: resource for name, resource in template["Resources"].items() if resource["Type"] == kind}


def states_of(definition: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the states of a state machine by name, with those within its maps."""
    found = {}
    for name, state in definition["States"].items():
        found |= {name: state, **(states_of(state["ItemProcessor"]) if state["Type"] == "Map" else {})}
    return found


class Masked(JSONSnapshotExtension):
    """Snapshots without the hashes that any change of a model, of a bundle or of the runtime's code brings along."""

    def serialize(self, data: Any, **options: Any) -> Any:
        text = str(super().serialize(data, **options))
        return ASSET.sub("(hash)", VERSION.sub(r"\1(hash)", text))


@pytest.fixture
def snapshot_json(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """One JSON file for each test, to be read in a review."""
    return snapshot.use_extension(Masked)
