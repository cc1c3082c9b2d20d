"""The example of continuous delivery: the pipeline synthesizes, and the commands of its build steps run."""

from __future__ import annotations

import functools
import json
import os
import runpy
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest

from cdk_inference.model import build_model
from cdk_inference.model.registry.registry import Registry

from .pages import EXAMPLES, ROOT

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = EXAMPLES / "continuous_delivery"
CONTEXT = {
    "registry-bucket": "models",
    "repository": "owner/name",
    "connection-arn": "arn:aws:codeconnections:eu-west-1:111111111111:connection/example",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that CodeBuild has of the repository."""
    for name in ("examples", "model_assets"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "cdk.json").write_text(json.dumps({"context": CONTEXT}))
    return tmp_path


def commands(template: dict[str, Any], of: str) -> list[str]:
    (project,) = (
        resource["Properties"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::CodeBuild::Project" and of in name
    )
    return json.loads(project["Source"]["BuildSpec"])["phases"]["build"]["commands"]


@pytest.mark.slow
def test_the_steps_of_the_pipeline_build_once_and_synthesize_from_the_registry(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = checkout / "registry"
    built = build_model(ROOT / "model_assets" / "digits_cnn" / "recipe.py")
    Registry(registry).push(built)
    (checkout / "pushed.json").write_text(json.dumps({"name": "digits-cnn", "version": built.version}))
    monkeypatch.setenv("CDK_INFERENCE_REGISTRY", str(registry))
    with monkeypatch.context() as first:  # a person's first deployment
        first.setenv("MODEL_FILE", str(checkout / "pushed.json"))
        first.setattr(cdk, "App", functools.partial(cdk.App, outdir=str(checkout / "first"), context=CONTEXT))
        first.setattr(sys, "path", [str(EXAMPLE), *sys.path])
        runpy.run_path(str(EXAMPLE / "pipeline.py"), run_name="__main__")
        sys.modules.pop("app")
    template = json.loads((checkout / "first" / "Delivery.template.json").read_text())

    environment = os.environ | {"MODEL_FILE": "model/model.json", "PYTHONSAFEPATH": ""}
    for step in ("BuildModel", "BuildSynth"):
        for command in commands(template, step):
            done = subprocess.run(
                ["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert json.loads((checkout / "model" / "model.json").read_text())["version"] == built.version
    again = json.loads((checkout / "cdk.out" / "Delivery.template.json").read_text())
    assert commands(again, "BuildSynth") == commands(template, "BuildSynth")
    service = next((checkout / "cdk.out" / "assembly-Production").glob("*.template.json")).read_text()
    assert built.version in service
    allowed = {step: registry_actions(template, step) for step in ("BuildModel", "BuildSynth")}
    assert allowed == {
        "BuildModel": {"s3:GetObject", "s3:ListBucket", "s3:PutObject"},
        "BuildSynth": {"s3:GetObject", "s3:ListBucket"},
    }


def registry_actions(template: dict[str, Any], step: str) -> set[str]:
    """Return what the role of a step may do with the registry's bucket."""
    (policy,) = (
        resource["Properties"]["PolicyDocument"]["Statement"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::IAM::Policy" and step in name and "Role" in name
    )
    found = set()
    for statement in policy:
        if ":s3:::models" in json.dumps(statement["Resource"]):
            actions = statement["Action"]
            found |= {actions} if isinstance(actions, str) else set(actions)
    return found
