"""The image of an app: built twice with the same digest, read by other tools, and run as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aws_cdk import App, Stack
from cloudevents.core.bindings import http
from obstore.store import LocalStore

from cdk_inference import Explain, ModelArtifact, Postprocess, Preprocess, Route
from cdk_inference.anywhere.image import route_of, write_image
from cdk_inference.anywhere.oci.layout import Base, Image, Layout
from cdk_inference.common.platform import LambdaPlatform
from cdk_inference.errors import PropError
from cdk_inference.testing import InProcessPipeline, LocalModel
from tests.constructs.anywhere.tools import config, needs_skopeo, unpacked
from tests.runtime.serving import events
from tests.runtime.serving.process import started

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "model_assets" / "digits_cnn"
APP = f"""
from aws_cdk import App, Stack
from cdk_inference import InferencePipeline, ModelArtifact, Postprocess, Preprocess

app = App()
stack = Stack(app, "Digits")
pipeline = InferencePipeline(
    stack,
    "Pipeline",
    model=ModelArtifact(stack, "Model", recipe={str(DIGITS / "recipe.py")!r}),
    preprocess=Preprocess.function("stages.py:preprocess"),
    postprocess=Postprocess.classification(labels={str(DIGITS / "labels.txt")!r}),
)
"""
STAGES = """
import json
import numpy as np
from inference_runtime import RejectItem

def preprocess(data, item):
    if len(data) > 9000:
        raise RejectItem("too many numbers")
    return np.array(json.loads(data), np.uint8)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("app")
    (found / "app.py").write_text(APP)
    (found / "stages.py").write_text(STAGES)
    return found


def build(folder: Path, *arguments: str) -> str:
    host = LambdaPlatform.host()
    platform = "linux/arm64" if host.architecture == "arm64" else "linux/amd64"
    command = [sys.executable, "-m", "cdk_inference.anywhere", "image", "app.py", "--platform", platform]
    command += ["--python", host.python, "--wheels", str(host.wheels), *arguments]
    paths = os.pathsep.join([str(ROOT / "constructs"), str(ROOT / "lambda_src")])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def route() -> Route:
    """A route, as a pipeline describes it."""
    stack = Stack(App(context={"aws:cdk:bundling-stacks": []}), "Digits")
    model = ModelArtifact(stack, "Model", recipe=DIGITS / "recipe.py")
    postprocess = Postprocess.classification(labels=["a", "b"])
    return Route("only", model=model, preprocess=Preprocess.tensor(), postprocess=postprocess)


def test_a_route_that_needs_aws_is_refused(tmp_path: Path) -> None:
    pipeline: Any = SimpleNamespace(described_routes={"only": route()})
    assert route_of(pipeline).name == "only"
    with pytest.raises(PropError, match="route must be 'only', got 'other'"):
        route_of(pipeline, "other")
    masks: Any = SimpleNamespace(
        described_routes={"a": replace(route(), postprocess=Postprocess.segmentation(labels=["x", "y"]))}
    )
    with pytest.raises(PropError, match="route must not make masks outside of AWS, got 'only'"):
        route_of(masks)
    explained: Any = SimpleNamespace(described_routes={"a": replace(route(), explain=Explain.always())})
    with pytest.raises(PropError, match="route must not explain its answers outside of AWS, got 'only'"):
        route_of(explained)
    with pytest.raises(PropError, match="platform must be linux/amd64 or linux/arm64, got 'linux/386'"):
        write_image(pipeline, tmp_path / "image", platforms=["linux/386"], base=None, python="3.14")
    images = [Image("amd64", Base(), [], {"Env": {"PYTHON_VERSION": "3.13.1"}})]
    Layout(tmp_path / "base").write(images)
    with pytest.raises(PropError, match=r"python must be that of the base, 3\.13\.1, got '3\.14'"):
        write_image(pipeline, tmp_path / "image", platforms=["linux/amd64"], base=tmp_path / "base", python="3.14")


@needs_skopeo
@pytest.mark.slow
def test_an_image_is_the_same_each_time_and_its_server_scores_as_the_pipeline_does(
    folder: Path, tmp_path: Path
) -> None:
    names = (
        "--variable",
        "LOG_LEVEL=DEBUG",
        "--name",
        "digits",
        "--image-name",
        "registry.example.com/digits",
        "--manifests",
        str(folder / "manifests"),
    )
    first = build(folder, "--output", "image", *names).splitlines()
    digest = first[0].removeprefix("image: ")
    assert build(folder, "--output", str(tmp_path / "other")).strip().endswith(digest)
    assert digest in (folder / "manifests" / "kubernetes.yaml").read_text()
    assert "LOG_LEVEL" in (folder / "manifests" / "cloud-run.yaml").read_text()
    assert len(first) == 5

    architecture = "arm64" if LambdaPlatform.host().architecture == "arm64" else "amd64"
    told = config(folder / "image", architecture)["config"]
    assert (told["User"], told["Entrypoint"]) == ("65532:65532", ["python3", "-m", "inference_runtime.serving"])
    variables = dict(entry.split("=", 1) for entry in told["Env"])
    root = unpacked(folder / "image", tmp_path / "bundle") / "srv" / "inference"
    assert not list(root.rglob("manifest.json"))
    store = tmp_path / "store" / "inbox"
    store.mkdir(parents=True)
    numbers = json.dumps([[(x * y) % 17 for x in range(8)] for y in range(8)]).encode()
    LocalStore(store).put("three.json", numbers)
    etag = (LocalStore(store).head("three.json")["e_tag"] or "").strip('"')
    entry = {"key": "three.json", "size": len(numbers), "etag": etag, "sequencer": "1"}
    named = {"time": events.TIME, "detail": {"bucket": {"name": "inbox"}, "object": entry}}
    lines = tmp_path / "rows.jsonl"
    others = {"OBJECT_STORE": (tmp_path / "store").as_uri(), "OBJECT_BUCKETS": "inbox", "RESULT_SINK": "stdout"}
    own = {name: value for name, value in variables.items() if name not in {"PYTHONPATH", "LAMBDA_TASK_ROOT"}}
    # Only the image's packages, as in a container: not those of this environment.
    isolated = {"PYTHONNOUSERSITE": "1", "PYTHONPATH": str(root), "VIRTUAL_ENV": ""}
    python = Path(sys.base_prefix) / "bin" / "python3"
    with started(tmp_path, python=str(python), stdout=lines, **{**own, **others, **isolated}) as server:
        assert server.send(http.to_binary_event(events.notification(named))).status == 204
        assert server.send(http.to_structured_event(events.event("x", json.loads(numbers)))).status == 204
        assert server.send(http.to_binary_event(events.event("x", b"0" * 9001))).status == 422
        assert server.terminate() == 0
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    scored = InProcessPipeline(
        model=LocalModel.of(DIGITS / "recipe.py", architecture=LambdaPlatform.host().architecture),
        preprocess=f"{folder / 'stages.py'}:preprocess",
        postprocess=Postprocess.classification(labels=DIGITS / "labels.txt"),
    ).run(numbers)
    expected = scored.result.row
    assert [row["status"] for row in rows] == ["SUCCEEDED", "SUCCEEDED", "REJECTED"]
    for row in rows[:2]:
        assert row["prediction"] == expected["prediction"]
        assert row["model_version"] == expected["model_version"]
