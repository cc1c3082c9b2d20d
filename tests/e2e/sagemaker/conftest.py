"""A pipeline on SageMaker in the embedded AWS, and our stand-in for SageMaker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference import LambdaPlatform
from cdk_inference.local import LocalCloud
from cdk_inference.local.emulator import emulator as emulator_module
from cdk_inference.model.project import build_model
from tests.assemblies import synthesized
from tests.e2e.quick import QuickEmulator
from tests.e2e.sagemaker.fake import IN_VAIN, FakeSageMaker
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Watched

HERE = Path(__file__).parent


@pytest.fixture(scope="package")
def sagemaker() -> Iterator[FakeSageMaker]:
    with FakeSageMaker() as sagemaker:
        yield sagemaker


@pytest.fixture(scope="package")
def cloud(sagemaker: FakeSageMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    folder = tmp_path_factory.mktemp("sagemaker")
    app = synthesized(HERE / "app" / "app.py", folder / "synthesized", {"sagemaker": sagemaker.url})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emulator_module, "_LAUNCHER", HERE / "launcher.py")
        patch.setattr("cdk_inference.local.cloud.Emulator", QuickEmulator)
        with LocalCloud() as cloud:
            cloud.deploy(app)
            (folder / "model").symlink_to(
                build_model(HERE / "app" / "model" / "recipe.py", architecture=LambdaPlatform.host().architecture).path
            )
            stack = cloud.client("cloudformation").describe_stack_resources(StackName="Asynchronous")["StackResources"]
            names = {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in stack}
            assembly = app.with_name("assembly")
            parts = json.loads((assembly / "whole.json").read_text())
            (folder / "explanation.json").symlink_to(assembly / "explanation.json")
            sagemaker.serve(cloud.endpoint, parts, names, folder)
            yield cloud


@pytest.fixture(scope="package")
def numbers(watch: type[Watched], cloud: LocalCloud) -> Watched:
    return watch(cloud, "Asynchronous/Numbers")


@pytest.fixture(scope="package")
def in_vain(numbers: Watched, sagemaker: FakeSageMaker) -> dict[str, float]:
    """Put objects that are always refused. It takes a minute until they fail: the other tests go on meanwhile."""
    objects = {f"in vain {number}": IN_VAIN for number in range(3)}
    for key, value in objects.items():
        numbers.put(key, str(value).encode())
    # From then on they are in a separate batch.
    wait_until(lambda: sagemaker.refused_in_vain and not numbers.queued(objects), lambda: "nobody asked", every=0.25)
    return objects
